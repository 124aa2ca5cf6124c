"""What a prompt that names a concept should act like: the rows of its encoding, and where each of them goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ..concepts.concept import Concept, Name, name_tokens
from ..concepts.templates import fill_template
from ..errors import ForgetError
from ..model.protocol import TextModel
from ..model.tokens import EncodedPrompt, concept_columns

Target = Literal["ablated prompt", "zero", "empty prompt", "substitute"]
TARGETS: tuple[Target, ...] = get_args(Target)
ABLATED, ZERO, EMPTY, SUBSTITUTE = TARGETS
# A prompt without its style is still drawn in some style, the forgotten one too; a model that goes half as far again seldom does that.
BY_KIND = -1.0
OVERSHOOTS = {"style": 0.5}


@dataclass
class TargetPair:
    """A prompt that names the concept, and the prompt it should act like: without the name, or with another in its place.

    `how`: one of TARGETS, see steered_pair. `end_token`: which end tokens go to zero with the name where `how` is ZERO. `overshoot`: how
    much further than the target, away from the concept: what acts is target + overshoot (target - full).
    """

    name: Name
    full: str
    target: str
    template: int
    target_name: Name | None = None
    how: str = ABLATED
    end_token: str = "none"
    overshoot: float = 0.0


def ablated(template: str) -> str:
    """The template without its phrase."""
    return " ".join(fill_template(template, " ").split())


def template_pairs(
    concepts: list[Concept], target: str = ABLATED, substitute: str = "", overshoot: float = BY_KIND
) -> list[TargetPair]:
    """Every name of every concept in each of its templates, against its target.

    `target`: the same template without the name (ablated prompt), zero, the empty prompt, or the same template with
    `substitute` in the name's place. `overshoot`: see Pair; BY_KIND is that of OVERSHOOTS where the target is the ablated prompt. Raises
    ForgetError on another target, and on a substitute that is missing. Source of the overshoot: ESD's negative guidance.
    """
    check_target(target, substitute)
    by_kind = OVERSHOOTS if target == ABLATED else {}
    other = Name(substitute) if target == SUBSTITUTE else None

    def aim(template: str) -> str:
        if target == EMPTY:
            return ""
        return ablated(template) if other is None else fill_template(template, substitute)

    return [
        TargetPair(
            name, fill_template(template, name.text), aim(template), number, other, target, concept.end_token, further
        )
        for concept in concepts
        for further in (by_kind.get(concept.kind, 0.0) if overshoot < 0 else overshoot,)
        for name in concept.names()
        for number, template in enumerate(concept.templates)
    ]


def check_target(target: str, substitute: str) -> None:
    """Raises ForgetError on a target that does not exist and on a substitute that is missing."""
    if target not in TARGETS:
        raise ForgetError(f"Expected one of the targets {', '.join(TARGETS)}, got {target!r}.")
    if target == SUBSTITUTE and not substitute.strip():
        raise ForgetError(
            "Expected a substitute to put in the phrase's place, got an empty text. Type one, such as 'horse' for 'zebra'."
        )


def pair_columns(model: TextModel, prompt: EncodedPrompt, pair: TargetPair) -> list[int]:
    """The columns of a pair's full prompt that name the concept, end tokens included where they go to zero with it."""
    return name_columns(model, prompt, pair.name, pair.end_token if pair.how == ZERO else "none")


def name_columns(model: TextModel, prompt: EncodedPrompt, name: Name, end_token: str = "none") -> list[int]:
    """The name's own columns in a one-chunk prompt; raises ForgetError when there are none or more chunks."""
    if any(len(chunks) != 1 for chunks in prompt.tokens.values()):
        raise ForgetError(
            f"Expected prompts of at most 75 tokens, got a longer one: {prompt.text[:60]!r}... Shorten the phrase or the template."
        )
    ids = {encoder: [tokens] for encoder, tokens in name_tokens(model, name).items()}
    columns = [c for c in concept_columns(prompt.tokens, ids, model.vocabulary, end_token) if c < len(prompt.context)]
    if not columns:
        raise ForgetError(
            f"Phrase {name.text!r} was not found in the prompt {prompt.text!r}. Put spaces around {{}} in the template."
        )
    return columns


def steered_pair(
    prompt: EncodedPrompt, target: EncodedPrompt, columns: list[int], target_columns: list[int], how: str = ABLATED
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a prompt that name or follow the phrase, and where each should go: source and target, (n, dim) each.

    Zero: the columns alone, to zero, which is zero attention on them. Empty prompt: every row from the phrase on, to the row
    at its place in the empty prompt. Else every token after the phrase goes to its counterpart in the target prompt, which
    stands as many places earlier as the target's name is shorter. Phrase tokens go to the target's name, last to last, or
    to zero where it has none (the ablated prompt). Tokens before the phrase are equal in both prompts, because the encoder is
    causal, and are left out. Rows of padding that a context left out are like its last.
    """
    c, a = prompt.context, target.context
    if how == ZERO:
        return c[columns], torch.zeros_like(c[columns])
    if how == EMPTY:
        rows = torch.arange(columns[0], len(c))
        return c[rows], a[rows.clamp_max(len(a) - 1)]
    source, aim, shift = [], [], 0
    for j in range(columns[0], c.shape[0]):
        source.append(c[j])
        if j in columns:
            shift += 1
            left = len(columns) - shift
            named = target_columns[max(0, len(target_columns) - 1 - left)] if target_columns else None
            aim.append(torch.zeros_like(c[j]) if named is None else a[named])
        else:
            aim.append(a[min(j - shift + len(target_columns), a.shape[0] - 1)])
    return torch.stack(source), torch.stack(aim)

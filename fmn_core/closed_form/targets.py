"""Target pairs: the prompt that a prompt with the phrase should act like, and the target of each of its encoded rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ..concepts.concept import Concept, Name, name_columns
from ..concepts.templates import fill_template
from ..errors import ForgetError
from ..model.protocol import TextModel
from ..model.tokens import LAST_ROW, MEAN_ROW, ZERO_ROW, EncodedPrompt

Target = Literal["ablated prompt", "zero", "empty prompt", "substitute"]
TARGETS: tuple[Target, ...] = get_args(Target)
ABLATED, ZERO, EMPTY, SUBSTITUTE = TARGETS
# Overshoot by kind. A prompt without its style is still drawn in some style, at times in the forgotten one; with half an overshoot seldom.
# Other kinds get the overshoot of the module `shortfall`.
BY_KIND = -1.0
OVERSHOOTS = {"style": 0.5}


@dataclass
class TargetPair:
    """A prompt with the phrase, and the prompt it should act like.

    Attributes
    ----------
    name
        The phrase or learned embedding that stands in the prompt.
    full, target
        The prompt with the phrase, and the prompt it should act like.
    template
        Number of the template that both were made from.
    target_name
        What stands in the phrase's place in `target`, if anything.
    how
        One of TARGETS, see `steered_pair`.
    end_token
        End tokens that go to zero with the phrase where `how` is ZERO.
    overshoot
        Share by which the edit goes beyond the target: rows go to target + overshoot (target - full).
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
    """Template with its placeholder deleted, and no double spaces left."""
    return " ".join(fill_template(template, " ").split())


def template_pairs(
    concepts: list[Concept], target: str = ABLATED, substitute: str = "", overshoot: float = BY_KIND
) -> list[TargetPair]:
    """Target pairs of every name of every concept in each of its templates.

    Parameters
    ----------
    target
        One of TARGETS: the template without the name (ablated prompt), zero, the empty prompt, or the template with `substitute` in
        the name's place.
    overshoot
        See TargetPair. BY_KIND takes the value of OVERSHOOTS where the target is the ablated prompt, and 0 elsewhere.

    Raises
    ------
    ForgetError
        On an unknown target, and where the substitute is missing.

    Notes
    -----
    The overshoot follows the negative guidance of ESD (Gandikota et al., ICCV 2023).
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
    """Raises ForgetError on an unknown target and on a missing substitute."""
    if target not in TARGETS:
        raise ForgetError(f"Expected one of the targets {', '.join(TARGETS)}, got {target!r}.")
    if target == SUBSTITUTE and not substitute.strip():
        raise ForgetError(
            "Expected a substitute to put in the phrase's place, got an empty text. Type one, such as 'horse' for 'zebra'."
        )


def pair_columns(model: TextModel, prompt: EncodedPrompt, pair: TargetPair) -> list[int]:
    """Concept columns of a pair's full prompt, with the end tokens that go to zero with them where the target is zero."""
    return context_columns(model, prompt, pair.name, pair.end_token if pair.how == ZERO else "none")


def context_columns(model: TextModel, prompt: EncodedPrompt, name: Name, end_token: str = "none") -> list[int]:
    """Columns of a name's tokens in a prompt; raises ForgetError where there are none, or more than one chunk of 75 tokens."""
    if any(len(chunks) != 1 for chunks in prompt.tokens.values()):
        raise ForgetError(
            f"Expected prompts of at most 75 tokens, got a longer one: {prompt.text[:60]!r}... Shorten the phrase or the template."
        )
    return [c for c in name_columns(model, prompt, name, end_token) if c < len(prompt.context)]


def first_steered(prompt: EncodedPrompt, columns: list[int]) -> int:
    """The first row that a phrase in these columns moves: its own where the encoder is causal, else the first of all."""
    return columns[0] if prompt.causal else 0


def steered_pair(
    prompt: EncodedPrompt, target: EncodedPrompt, columns: list[int], target_columns: list[int], how: str = ABLATED
) -> tuple[torch.Tensor, torch.Tensor]:
    """Source rows of a prompt, from `first_steered` on, and the target row of each, both (n, dim).

    Parameters
    ----------
    columns, target_columns
        Columns of the phrase in the prompt, and of what replaces it in the target prompt (none for the ablated prompt).

    Notes
    -----
    Rows before the phrase are equal in both prompts where the encoder is causal, and are left out. By target:

    - zero: the phrase's rows alone go to zero, as zero attention would have them;
    - empty prompt: every row goes to the row at its position in the empty prompt;
    - ablated prompt, substitute: a row goes to its counterpart in the target prompt, which stands earlier by the tokens that the phrase
      has more if it comes after the phrase. Rows of the phrase go to those of the substitute, aligned at their last token, and without a
      substitute to what is nothing in the model, see EncodedPrompt.

    Padding that a context omits equals its last row.
    """
    c, a = prompt.context, target.context
    if how == ZERO:
        return c[columns], torch.zeros_like(c[columns])
    rows = range(first_steered(prompt, columns), len(c))
    if how == EMPTY:
        return c[rows.start :], a[torch.arange(rows.start, len(c)).clamp_max(len(a) - 1)]
    nothing, aim, shift = _nothing(target, columns[0]), [], 0
    for j in rows:
        if j in columns:
            shift += 1
            to_end = len(columns) - shift
            column = target_columns[max(0, len(target_columns) - 1 - to_end)] if target_columns else None
            aim.append(nothing if column is None else a[column])
        else:
            further = len(target_columns) if shift else 0
            aim.append(a[min(j - shift + further, a.shape[0] - 1)])
    return c[rows.start :], torch.stack(aim)


def _nothing(target: EncodedPrompt, column: int) -> torch.Tensor:
    """The row of a target prompt that stands for nothing where a phrase began at a column."""
    rows = target.context
    if target.nothing == MEAN_ROW:
        return rows.mean(0)
    if target.nothing == ZERO_ROW:
        return torch.zeros_like(rows[0])
    return rows[-1 if target.nothing == LAST_ROW else max(0, min(column, len(rows)) - 1)]

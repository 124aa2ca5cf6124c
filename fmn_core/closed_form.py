"""Forgetting in closed form: one ridge system for all layers, with the ablated prompt as target."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .concept import Concept, Name, check_concepts, name_tokens
from .errors import ForgetError
from .factors import weighted_range
from .model import ForgetModel, TextModel
from .moments import Moments, ratio
from .patch import Factors, ForgetPatch, fingerprint, kohya_name
from .preserve import IMAGINED_WORDS, encode_imagined, preserve_groups
from .shrink import balanced
from .tokens import EncodedPrompt, concept_columns
from .weight_choice import AUTO, choose_weights

PROJECTIONS = {"values": ("to_v",), "keys and values": ("to_k", "to_v")}


@dataclass
class ClosedFormSettings:
    """What can be chosen; 0 means: chosen from the algebra alone (see choose_weights).

    `ridge`: lambda relative to the mean eigenvalue of the system. `preserve_weight`: weight of the preserve prompts'
    mean second moment against the concept's. `preservation`: how much drift counts when these two are chosen, 1 = as
    measured to be balanced. `preserve_prompts`: prompts, and names of up to three words, which go through the templates
    too. `rank`: upper bound; `tolerance`: energy that may be left behind. `imagined_words`: see preserve.imagined_words.
    """

    train: str = "values"
    preservation: float = 1.0
    ridge: float = AUTO
    preserve_weight: float = AUTO
    rank: int = 32
    tolerance: float = 1e-4
    preserve_prompts: list[str] = field(default_factory=list)
    use_everyday_captions: bool = True
    imagined_words: int = IMAGINED_WORDS


def steered_pair(
    prompt: EncodedPrompt, target: EncodedPrompt, columns: list[int], target_columns: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a prompt that name or follow the phrase, and where each should go: source and target, (n, dim) each.

    Every token after the phrase goes to its counterpart in the target prompt, which stands as many places earlier as the
    target's name is shorter. Phrase tokens go to the target's name, last to last, or to zero where it has none (the
    ablated prompt). Tokens before the phrase are equal in both prompts, because the encoder is causal, and are left out.
    """
    c, a = prompt.context, target.context
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


@dataclass
class Pair:
    """A prompt that names the concept, and the prompt it should act like: without the name, or with another in its place."""

    name: Name
    full: str
    target: str
    template: int
    target_name: Name | None = None


def ablated(template: str) -> str:
    """The template without its phrase."""
    return " ".join(template.format(" ").split())


def template_pairs(concepts: list[Concept]) -> list[Pair]:
    """Every name of every concept in each of its templates, against the same template without it."""
    return [
        Pair(name, template.format(name.text), ablated(template), number)
        for concept in concepts
        for name in concept.names()
        for number, template in enumerate(concept.templates)
    ]


def collect_moments(
    model: TextModel,
    concepts: list[Concept],
    preserve: list[list[str]],
    imagined: int = 0,
    pairs: list[Pair] | None = None,
) -> tuple[Moments, Moments]:
    """Encodes every pair, the groups of prompts to preserve, and imagined words.

    `pairs`: template_pairs(concepts) unless given. Returns the moments of one half of the templates and preserve
    groups, and of the other half; a single template is in both. Raises ForgetError when a phrase is not found in its own
    prompt, or does not fit into one chunk.
    """
    pairs = template_pairs(concepts) if pairs is None else pairs
    # The targets are where the model is led to: they must stay what they are.
    half_of = {text: n % 2 for n, text in enumerate(dict.fromkeys(pair.target for pair in pairs))}
    for n, group in enumerate(preserve):
        half_of |= {text: n % 2 for text in group if text not in half_of}
    kept = dict(zip(half_of, model.encode(list(half_of))))
    halves = tuple(Moments.empty(kept[pairs[0].target].context.shape[1]) for _ in range(2))
    single = max(pair.template for pair in pairs) == 0
    for pair, prompt in zip(pairs, model.encode([p.full for p in pairs], [p.name.word for p in pairs])):
        aim = kept[pair.target]
        there = name_columns(model, aim, pair.target_name) if pair.target_name else []
        source, target = steered_pair(prompt, aim, name_columns(model, prompt, pair.name), there)
        for half in halves if single else (halves[pair.template % 2],):
            half.add_pair(source, target)
    for text, n in half_of.items():
        halves[n].add_preserved(kept[text].context)
    if imagined:
        for n, prompt in enumerate(encode_imagined(model, concepts, imagined)):
            halves[n % 2].add_preserved(prompt.context)
    return halves[0], halves[1]


def name_columns(model: TextModel, prompt: EncodedPrompt, name: Name) -> list[int]:
    """The name's own columns in a one-chunk prompt; raises ForgetError when there are none or more chunks."""
    if any(len(chunks) != 1 for chunks in prompt.tokens.values()):
        raise ForgetError(
            f"Expected prompts of at most 75 tokens, got a longer one: {prompt.text[:60]!r}... Shorten the phrase or the template."
        )
    ids = {encoder: [tokens] for encoder, tokens in name_tokens(model, name).items()}
    columns = concept_columns(prompt.tokens, ids, model.vocabulary, "none")
    if not columns:
        raise ForgetError(
            f"Phrase {name.text!r} was not found in the prompt {prompt.text!r}. Put spaces around {{}} in the template."
        )
    return columns


def forget_closed_form(
    model: ForgetModel,
    concepts: list[Concept],
    settings: ClosedFormSettings | None = None,
    progress: Callable[[int, int, dict], None] | None = None,
    pairs: list[Pair] | None = None,
) -> ForgetPatch:
    """Solves for a patch that makes the model fall back on what a prompt says without the phrase.

    `pairs` replaces what should act like what (see template_pairs). `progress(done, total, figures)` is called between the
    stages and may raise to interrupt. Raises ForgetError on input that cannot be used. Source: method of UCE with FMN's
    "natural fallback" as target.
    """
    settings = settings or ClosedFormSettings()
    if settings.train not in PROJECTIONS:
        raise ForgetError(f"Expected to train one of {', '.join(PROJECTIONS)}, got {settings.train!r}.")
    tick = progress or (lambda done, total, figures: None)
    started = time.perf_counter()
    tick(0, 4, {})
    check_concepts(model, concepts)
    preserve = preserve_groups(model, concepts, settings.preserve_prompts, settings.use_everyday_captions)
    halves = collect_moments(model, concepts, preserve, settings.imagined_words, pairs)
    tick(1, 4, {})
    factors, figures = solve_factors(model, halves, settings, lambda figures: tick(2, 4, figures))
    figures["seconds"] = time.perf_counter() - started
    tick(4, 4, figures)
    described = {"method": "closed form", **asdict(settings)}
    return ForgetPatch(factors, [c.as_dict() for c in concepts], fingerprint(model), described, rounded(figures))


def solve_factors(
    model: ForgetModel, halves: tuple[Moments, Moments], settings: ClosedFormSettings, chosen: Callable[[dict], None]
) -> tuple[dict[str, Factors], dict]:
    """The one system for all layers: factors by kohya name, and figures. `chosen(figures)` is called in between."""
    names = [(layer.name, p) for layer in model.cross_attention() for p in PROJECTIONS[settings.train]]
    weights = dict(zip(names, model.weights(names)))
    moments = halves[0] + halves[1]
    metric, norms = _measured(weights, moments)
    ridge, preserve_weight, figures = choose_weights(
        *halves, metric, settings.ridge, settings.preserve_weight, settings.preservation
    )
    chosen(figures)
    edit = moments.solve(ridge, preserve_weight)
    system = moments.second_moment(ridge, preserve_weight)
    basis, residual = weighted_range(edit, system, settings.tolerance, settings.rank)
    down = basis.T @ edit
    ups = {name: w.double() @ basis for name, w in weights.items()}
    layers = _layer_figures(moments, norms, weights, ups, down)
    figures |= {"rank": basis.shape[1], "rank_residual": residual, "layers": layers}
    return {kohya_name(*name): balanced(up, down) for name, up in ups.items()}, figures


_Names = tuple[str, str]


def _measured(
    weights: dict[_Names, torch.Tensor], moments: Moments
) -> tuple[torch.Tensor, dict[_Names, tuple[float, float]]]:
    """Mean of W^T W / |W|^2 over the layers, and per layer the squares |W (C - C*)|^2 and |W P|^2.

    Products in float32: they weigh relative errors against one another, and no solve sees them.
    """
    metric, norms = torch.zeros_like(moments.cc), {}
    target, preserved = moments.distance(None).float(), moments.pp.float()
    for name, w in weights.items():
        gram = w.T @ w
        metric += gram / (w**2).sum() / len(weights)
        norms[name] = (float((gram * target).sum()), float((gram * preserved).sum()))
    return metric, norms


def _layer_figures(
    moments: Moments,
    norms: dict[_Names, tuple[float, float]],
    weights: dict[_Names, torch.Tensor],
    ups: dict[_Names, torch.Tensor],
    down: torch.Tensor,
) -> dict[str, dict[str, float]]:
    """Per layer: share of the target missed, |W'C - V*| / |WC - V*|, and drift of preserve prompts, |dW P| / |W P|.

    With dW = U D of low rank, |W'C - V*|^2 = |W (C - C*)|^2 + 2 tr(U D N W^T) + tr(U^T U D C C^T D^T), N = C C^T - C C*^T.
    """
    steered, concept, kept = down @ (moments.cc - moments.tc.T), down @ moments.cc @ down.T, down @ moments.pp @ down.T
    figures = {}
    for name, up in ups.items():
        target, preserved = norms[name]
        gram = up.T @ up
        missed = target + float(2 * (steered * (up.T @ weights[name].double())).sum() + (gram * concept).sum())
        figures[".".join(name)] = {
            "missed": ratio(missed, target),
            "drift": ratio(float((gram * kept).sum()), preserved),
        }
    return figures


def rounded(value: Any) -> Any:
    """Figures to six significant digits, for a file that reads well."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value

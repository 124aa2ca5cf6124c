"""Forgetting in closed form: one ridge system for all layers, with the ablated prompt as target."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from ..attention.queries import constant_directions
from ..concepts.concept import Concept, check_concepts
from ..concepts.preserve import encode_imagined, imagined_in_all, preserve_groups
from ..errors import ForgetError
from ..model.protocol import ForgetModel, TextModel
from ..model.tokens import EncodedPrompt, LearnedEmbedding, row_weights
from ..patch.factors import weighted_range
from ..patch.figures import rounded
from ..patch.patch import Factors, ForgetPatch, fingerprint, kohya_name
from ..patch.shrink import balanced
from .key_shift import shifted_keys
from .layer_solutions import low_rank_ups, measured, on_the_cpu, shifted_drifts
from .moments import Moments, MomentSums
from .robust import robust_moments
from .settings import PRECISIONS, PROJECTIONS, ClosedFormSettings, check_settings
from .targets import (
    ZERO,
    TargetPair,
    name_columns,
    pair_columns,
    steered_pair,
    template_pairs,
)
from .weight_choice import check_condition, choose_weights

# Rows of padding that are encoded of most prompts; they stand for all of it, which is much alike. One prompt in WHOLE is encoded
# to its last row, so that the solve meets padding of every place.
PADDING, WHOLE = 1, 19


def collect_moments(
    model: TextModel,
    concepts: list[Concept],
    preserve: list[list[str]],
    imagined: int = 0,
    pairs: list[TargetPair] | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> tuple[Moments, Moments]:
    """Encodes every pair, the groups of prompts to preserve, and `imagined` words for each concept.

    `pairs`: template_pairs(concepts) unless given. `dtype`, `device`: of the moments. Returns the moments of one half of the templates and preserve
    groups, and of the other half; a single template is in both. Raises ForgetError when a phrase is not found in its own
    prompt, or does not fit into one chunk.
    """
    pairs = template_pairs(concepts) if pairs is None else pairs
    # The targets are where the model is led to: they must stay what they are.
    half_of = {text: n % 2 for n, text in enumerate(dict.fromkeys(pair.target for pair in pairs))}
    for n, group in enumerate(preserve):
        half_of |= {text: n % 2 for text in group if text not in half_of}
    whole = {pair.target for pair in pairs if pair.template % WHOLE == 0}
    kept = dict(zip(half_of, _encoded(model, list(half_of), None, [text in whole for text in half_of])))
    halves = tuple(MomentSums(Moments.empty(kept[pairs[0].target].context.shape[1], dtype, device)) for _ in range(2))
    single = max(pair.template for pair in pairs) == 0
    texts, words = [p.full for p in pairs], [p.name.word for p in pairs]
    encoded = _encoded(model, texts, words, [p.template % WHOLE == 0 for p in pairs])
    for pair, prompt in zip(pairs, encoded):
        for half in halves if single else (halves[pair.template % 2],):
            half.add_pair(*_rows_of(model, pair, prompt, kept[pair.target]))
    for text, n in half_of.items():
        halves[n].add_preserved(kept[text].context, row_weights(kept[text], model.vocabulary))
    if imagined:
        drawn = imagined_in_all(imagined, len(concepts))
        for n, prompt in enumerate(encode_imagined(model, concepts, drawn, PADDING)):
            # More draws are a better estimate of the same: they do not count for more against what was listed.
            halves[n % 2].add_preserved(prompt.context, row_weights(prompt, model.vocabulary) * (imagined / drawn))
    return halves[0].result(), halves[1].result()


def _encoded(
    model: TextModel, prompts: list[str], words: list[LearnedEmbedding | None] | None, whole: list[bool]
) -> list[EncodedPrompt]:
    """Prompts with little padding, but for those that are wanted whole."""
    found: dict[int, EncodedPrompt] = {}
    for wanted, padding in ((True, None), (False, PADDING)):
        part = [i for i, is_whole in enumerate(whole) if is_whole == wanted]
        if part:
            chosen = None if words is None else [words[i] for i in part]
            found |= zip(part, model.encode([prompts[i] for i in part], chosen, padding))
    return [found[i] for i in range(len(prompts))]


def _rows_of(
    model: TextModel, pair: TargetPair, prompt: EncodedPrompt, aim: EncodedPrompt
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A pair's rows as Moments.add_pair takes them: sources, targets, those that name the concept, and for how many rows each stands."""
    columns = pair_columns(model, prompt, pair)
    there = name_columns(model, aim, pair.target_name) if pair.target_name else []
    source, target = steered_pair(prompt, aim, columns, there, pair.how)
    target = target + pair.overshoot * (target - source)
    weight = row_weights(prompt, model.vocabulary)
    named = name_columns(model, prompt, pair.name, pair.end_token)
    steered = weight[columns] if pair.how == ZERO else weight[columns[0] :]
    return source, target, prompt.context[named], steered, weight[named]


def forget_closed_form(
    model: ForgetModel,
    concepts: list[Concept],
    settings: ClosedFormSettings | None = None,
    progress: Callable[[int, int, dict], None] | None = None,
    pairs: list[TargetPair] | None = None,
    size: tuple[int, int, int] | None = None,
) -> ForgetPatch:
    """Solves for a patch that makes the model fall back on what a prompt says without the phrase.

    `pairs` replaces what should act like what (see template_pairs). `progress(done, total, figures)` is called between the
    stages and may raise to interrupt. `size` (C, h, w): latents in which a logit shift looks for its direction; the UNet runs, without
    gradients, for nothing else, and must then be ready to denoise. Raises ForgetError on input that cannot be used. Source: method of UCE
    with FMN's "natural fallback" as target.
    """
    settings = settings or ClosedFormSettings()
    check_settings(settings)
    tick = progress or (lambda done, total, figures: None)
    started = time.perf_counter()
    tick(0, 4, {})
    check_concepts(model, concepts)
    pairs = _pairs_of(concepts, settings) if pairs is None else pairs
    preserve = preserve_groups(model, concepts, settings.preserve_prompts, settings.use_everyday_captions)
    dtype = PRECISIONS[settings.precision]
    device = model.device if dtype == torch.float32 else "cpu"
    halves = collect_moments(model, concepts, preserve, settings.imagined_words, pairs, dtype, device)
    tick(1, 4, {})
    directions = _directions(model, pairs, settings, size)
    rank = settings.rank * len(concepts)
    factors, figures = solve_factors(model, halves, settings, rank, lambda figures: tick(2, 4, figures), directions)
    figures["seconds"] = time.perf_counter() - started
    tick(4, 4, figures)
    described = {"method": "closed form", **asdict(settings)}
    return ForgetPatch(factors, [c.as_dict() for c in concepts], fingerprint(model), described, rounded(figures))


def _pairs_of(concepts: list[Concept], settings: ClosedFormSettings) -> list[TargetPair]:
    return template_pairs(concepts, settings.target, settings.substitute, settings.overshoot)


def _directions(
    model: ForgetModel, pairs: list[TargetPair], settings: ClosedFormSettings, size: tuple[int, int, int] | None
) -> dict[str, torch.Tensor]:
    """The directions of a logit shift, from pictures of every name in its first template."""
    if not settings.logit_shift:
        return {}
    if size is None:
        raise ForgetError(
            "Expected the size of a latent for a logit shift, got none. Pass size=(channels, height, width)."
        )
    first = [pair for pair in pairs if pair.template == 0]
    prompts = model.encode([p.full for p in first], [p.name.word for p in first])
    return constant_directions(model, prompts, size)


def solve_factors(
    model: ForgetModel,
    halves: tuple[Moments, Moments],
    settings: ClosedFormSettings,
    rank: int,
    chosen: Callable[[dict], None],
    directions: dict[str, torch.Tensor] | None = None,
) -> tuple[dict[str, Factors], dict]:
    """The one system for all layers: factors by kohya name, and figures.

    `chosen(figures)` is called in between. `directions`: see queries.constant_directions; for a logit shift only. Raises
    ForgetError where the system's condition is hopeless in its precision.
    """
    names = [(layer.name, p) for layer in model.cross_attention() for p in PROJECTIONS[settings.train]]
    moments = halves[0] + halves[1]
    metric, norms = measured(names, model.weights(names, moments.cc.device), moments)
    ridge, preserve_weight, figures = choose_weights(
        *halves, metric, settings.ridge, settings.preserve_weight, settings.preservation
    )
    chosen(figures)
    solved = robust_moments(moments, metric, ridge, preserve_weight, settings.robust_rounds)
    system = solved.second_moment(ridge, preserve_weight)
    figures["condition"] = check_condition(system)
    shifted = [n for n in names if n[1] == "to_k" and settings.logit_shift]
    factors, layers = {}, {}
    if len(shifted) < len(names):
        edit = solved.solve(ridge, preserve_weight)
        basis, residual = weighted_range(edit, system, settings.tolerance, rank)
        down = basis.T @ edit
        low_rank = [name for name in names if name not in shifted]
        ups, layers = low_rank_ups(low_rank, model.weights(low_rank, basis.device), moments, norms, basis, down)
        figures |= {"rank": basis.shape[1], "rank_residual": residual}
        factors = on_the_cpu(ups, down)
    if shifted:
        heads = {layer.name: layer.heads for layer in model.cross_attention()}
        parts = shifted_keys(shifted, heads, directions or {}, settings.logit_shift, solved, ridge, preserve_weight)
        factors |= {kohya_name(*name): balanced(up, row) for name, (up, row) in parts.items()}
        layers |= shifted_drifts(parts, moments.pp.cpu(), norms)
        figures = {"rank": 1, "rank_residual": 0.0, **figures}
    return factors, figures | {"layers": layers}

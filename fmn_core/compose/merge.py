"""Several patches as one: by exact fusion, which keeps each one's effect on its own concept, or as a plain sum."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch

from ..closed_form.collect import collect_moments
from ..closed_form.correction import correction_pairs
from ..closed_form.moments import Moments
from ..closed_form.settings import ClosedFormSettings
from ..closed_form.targets import ABLATED, SUBSTITUTE, TargetPair, template_pairs
from ..closed_form.weight_choice import choose_weights
from ..concepts.concept import Concept, chain, check_concepts, concept_from_dict
from ..concepts.limits import MOST_NAMES, check_lines
from ..concepts.preserve import IMAGINED_WORDS, preserve_groups
from ..errors import ForgetError
from ..model.encoding_cache import MemoizedEncoding
from ..model.protocol import TextModel
from ..options import option, options
from ..patch.factors import matrix_root, moved_square
from ..patch.figures import rounded
from ..patch.parts import parts_of
from ..patch.patch import Factors, ForgetPatch
from ..patch.shrink import reduced

MOST_PATCHES = 100
_SOLVED = ("closed form", "concept correction", "fusion")


@options
class MergeSettings:
    """Settings of a merge; a patch side by side, and a sum, use fewer of them."""

    strengths: list[float] = option(default=list, help="Strength of each patch, in their order; none: 1 each.")
    rank: int = option(
        default=256,
        help="Upper bound of the merged patch's LoRA rank; side by side the ranks add up.",
        minimum=1,
        maximum=1024,
    )
    tolerance: float = option(
        default=1e-5,
        help="Share of energy that may be left behind where a lower rank will do.",
        minimum=0.0,
        maximum=0.5,
        step=0.001,
    )
    preservation: float = option(
        default=1.0,
        help="How much keeping counts against forgetting; 1 is balanced, more keeps more.",
        minimum=0.0,
        maximum=100.0,
        step=0.05,
    )


@dataclass
class _Source:
    """A patch, what it forgets, and the second moment of what it was solved on (or of its concepts' tokens)."""

    patch: ForgetPatch
    concepts: list[Concept]
    settings: ClosedFormSettings
    strength: float
    moments: Moments
    system: torch.Tensor


def concepts_of(patch: ForgetPatch) -> list[Concept]:
    """The concepts in a patch's metadata; raises ForgetError where it does not say enough to encode them again."""
    recorded = [concept_from_dict(saved) for saved in patch.concepts]
    concepts = [c for c in recorded if c is not None]
    if not recorded:
        raise ForgetError(
            "Expected forget patches with metadata, got a LoRA without (or another tool's): what it forgets is unknown. "
            "It can only be summed: choose the sum, or leave it out."
        )
    if len(concepts) < len(recorded):
        raise ForgetError(
            "Expected patches that say what they forget, got one with an inverted concept whose vectors are not in its metadata. "
            "Merge it by sum, or leave it out."
        )
    return concepts


def pairs_of(patch: ForgetPatch) -> list[TargetPair]:
    """What the patch was made to make act like what."""
    pairs, settings = [], recorded_settings(patch)
    for saved, concept in zip(patch.concepts, concepts_of(patch)):
        if saved.get("corrects"):
            pairs += correction_pairs(str(saved["corrects"]), list(saved.get("contexts", [])), concept)
        else:
            pairs += template_pairs([concept], settings.target, settings.substitute, settings.overshoot)
    return pairs


def check_mergeable(patches: Sequence[ForgetPatch], strengths: Sequence[float]) -> list[float]:
    """One strength for each patch; raises ForgetError on a wrong number of either, and on patches for unlike models."""
    if not 2 <= len(patches) <= MOST_PATCHES:
        raise ForgetError(f"Expected 2 to {MOST_PATCHES} patches to merge, got {len(patches)}. Choose more, or fewer.")
    strengths = list(strengths) or [1.0] * len(patches)
    if len(strengths) != len(patches) or not all(math.isfinite(s) for s in strengths):
        raise ForgetError(
            f"Expected {len(patches)} strengths, one for each patch, got {len(strengths)}. Leave them out for 1 each."
        )
    sizes: dict[str, tuple[int, ...]] = {}
    for number, patch in enumerate(patches, 1):
        for name, f in patch.factors.items():
            size = (f.up.shape[0], *f.down.shape[1:])
            if sizes.setdefault(name, size) != size:
                raise ForgetError(
                    f"Expected patches for one architecture, got layer {name} of size {list(sizes[name])} and, in patch "
                    f"{number}, {list(size)}. Merge patches of the same base model."
                )
    return strengths


def split_parts(patches: Sequence[ForgetPatch], strengths: Sequence[float]) -> tuple[list[ForgetPatch], list[float]]:
    """The parts of all patches, each at its patch's strength; raises ForgetError on more than MOST_PATCHES."""
    parts = [(part, s) for patch, s in zip(patches, strengths) for part in parts_of(patch)]
    if len(parts) > MOST_PATCHES:
        raise ForgetError(
            f"Expected at most {MOST_PATCHES} patches, those side by side counted apart, got {len(parts)}. Leave some out."
        )
    return [p for p, _ in parts], [s for _, s in parts]


def stacked(parts: Sequence[tuple[Factors, float, torch.Tensor | None]]) -> Factors:
    """The factors of sum_i s_i dW_i A_i: ups beside each other, downs (times A_i, if any) below each other; alpha = rank."""
    ups = [f.up.double().flatten(1) for f, _, _ in parts]
    downs = []
    for f, strength, after in parts:
        down = f.down.double().flatten(1) * (strength * f.alpha / f.rank)
        downs.append(down if after is None else down @ after)
    up, down = torch.cat(ups, 1), torch.cat(downs)
    first = parts[0][0]
    kernel = first.down.shape[1:]
    up = up.reshape(*up.shape, *first.up.shape[2:])
    return Factors(up.float(), down.float().reshape(-1, *kernel), float(down.shape[0]))


def sum_patches(
    patches: Sequence[ForgetPatch],
    settings: MergeSettings | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ForgetPatch:
    """The plain weighted sum of 2 to 100 patches: exactly their joint effect, interference included.

    Takes any LoRA, with metadata or without. `progress(done, total)` counts layers. Raises ForgetError on patches that do not fit each other.
    """
    settings = settings or MergeSettings()
    strengths = check_mergeable(patches, settings.strengths)
    factors, names = {}, list(dict.fromkeys(n for p in patches for n in p.factors))
    for done, name in enumerate(names, 1):
        parts = [(p.factors[name], s, None) for p, s in zip(patches, strengths) if name in p.factors]
        factors[name], _ = reduced(stacked(parts), settings.rank, settings.tolerance)
        progress(done, len(names))
    return merged_patch(patches, "sum", factors, {"strengths": strengths}, {})


def fuse_patches(
    text: TextModel,
    patches: Sequence[ForgetPatch],
    settings: MergeSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ForgetPatch:
    """One patch that does to every concept what its own patch does, and to preserve prompts what a joint solve does.

    What a closed-form patch was solved from is recovered as dW_i M_i, where M_i, the second moment of its concept's and
    preserve prompts' token embeddings, is computed again from its metadata; the joint solve is then sum_i (n_i / n) dW_i M_i
    M^-1, M being that of all of them together. Of patches trained by gradient, the effect on their concepts' tokens is kept:
    dW_i C_i C_i^T / n_i in place of dW_i M_i. Patches side by side count apart. Raises ForgetError on patches without metadata, and on those that
    do not fit each other or the text encoders. Source: MACE's closed-form fusion (Lu et al., CVPR 2024), section 3.4, with the systems of UCE.
    """
    settings = settings or MergeSettings()
    patches, strengths = split_parts(patches, check_mergeable(patches, settings.strengths))
    report_progress, text = progress or (lambda done, total: None), cast(TextModel, MemoizedEncoding(text))
    sources = []
    for number, (patch, strength) in enumerate(zip(patches, strengths)):
        report_progress(number, len(patches) + 1)
        sources.append(_source(text, patch, strength))
    concepts: tuple[Concept, ...] = ()
    for source in sources:
        concepts = chain(concepts, source.concepts)
    joint = _joint_settings(sources, settings)
    halves = moment_halves(text, list(concepts), joint, [pair for patch in patches for pair in pairs_of(patch)])
    metric = torch.eye(len(halves[0].cc), dtype=torch.float64)
    ridge, weight, figures = choose_weights(*halves, metric, preservation=joint.preservation)
    moments = halves[0] + halves[1]
    system = moments.second_moment(ridge, weight)
    total = sum(s.moments.sources for s in sources)
    inverse = torch.linalg.inv(system)
    after = [s.system @ inverse * (s.moments.sources / total) for s in sources]
    factors, root = {}, matrix_root(system)
    for name in dict.fromkeys(n for p in patches for n in p.factors):
        parts = [(s.patch.factors[name], s.strength, a) for s, a in zip(sources, after) if name in s.patch.factors]
        factors[name], _ = reduced(stacked(parts), settings.rank, settings.tolerance, root)
        report_progress(len(patches), len(patches) + 1)
    report_progress(len(patches) + 1, len(patches) + 1)
    figures |= {"effect_kept": _effect_kept(sources, factors)}
    named = {k: v for k, v in asdict(joint).items() if k not in ("rank", "tolerance")}
    return merged_patch(patches, "fusion", factors, {**named, "strengths": strengths}, figures)


def _source(text: TextModel, patch: ForgetPatch, strength: float) -> _Source:
    concepts = concepts_of(patch)
    check_concepts(text, concepts)
    width = text.encode([""])[0].context.shape[1]
    unfit = [n for n, f in patch.factors.items() if f.down.ndim != 2 or f.down.shape[1] != width]
    if unfit:
        raise ForgetError(
            f"Expected patches of cross-attention keys and values for a CLIP of width {width}, got a change of {unfit[0]}. "
            "Merge it by sum, or connect the CLIP of its base model."
        )
    settings = recorded_settings(patch)
    first, second = moment_halves(text, concepts, settings, pairs_of(patch))
    moments = first + second
    weights = _chosen_weights(patch)
    system = moments.second_moment(*weights) if weights else moments.cc / max(1, moments.sources)
    return _Source(patch, concepts, settings, strength, moments, system)


def recorded_settings(patch: ForgetPatch) -> ClosedFormSettings:
    """The settings in a patch's metadata, as far as they have the form that this tool writes."""
    usable: dict[str, Any] = {}
    for name, default in asdict(ClosedFormSettings()).items():
        value: Any = patch.settings.get(name)
        if type(value) is type(default):
            if name == "imagined_words":
                value = min(max(0, value), 4 * IMAGINED_WORDS)
            with contextlib.suppress(ForgetError):
                ClosedFormSettings(**{name: value})
                usable[name] = value
    settings = ClosedFormSettings(**usable)
    if settings.target == SUBSTITUTE and not settings.substitute.strip():
        return replace(settings, target=ABLATED)
    return settings


def _chosen_weights(patch: ForgetPatch) -> tuple[float, float] | None:
    """Ridge and preserve weight that a closed-form patch was solved with, or None."""
    ridge, weight = patch.figures.get("ridge"), patch.figures.get("preserve_weight")
    if not (isinstance(ridge, float) and isinstance(weight, float) and 0 < ridge < 1e6 and 0 < weight < 1e6):
        return None
    # Their systems hold more than a CLIP can tell: rows found with the UNet.
    beyond_text = any(patch.settings.get(name) for name in ("robust_rounds", "logit_shift", "attack_rounds"))
    return (ridge, weight) if patch.settings.get("method") in _SOLVED and not beyond_text else None


def moment_halves(
    text: TextModel, concepts: list[Concept], settings: ClosedFormSettings, pairs: list[TargetPair]
) -> tuple[Moments, Moments]:
    """The moments on which a training on these concepts and target pairs would solve, see collect_moments."""
    preserve = preserve_groups(text, concepts, settings.preserve_prompts, settings.use_everyday_captions)
    return collect_moments(text, concepts, preserve, settings.imagined_words, pairs)


def _joint_settings(sources: list[_Source], settings: MergeSettings) -> ClosedFormSettings:
    """What a training on all the concepts would have been asked for."""
    lines = list(dict.fromkeys(line for s in sources for line in s.settings.preserve_prompts))
    check_lines(lines, "preserve prompts of all patches together")
    return replace(
        ClosedFormSettings(),
        preservation=settings.preservation,
        preserve_prompts=lines,
        use_everyday_captions=any(s.settings.use_everyday_captions for s in sources),
        imagined_words=max(s.settings.imagined_words for s in sources),
    )


def _effect_kept(sources: list[_Source], factors: dict[str, Factors]) -> list[float]:
    """Per patch, 1 - |(dW - dW_i) C_i| / |dW_i C_i|: how much of its effect on its own concept's tokens is left."""
    return [1 - _distance(s, factors) for s in sources]


def _distance(source: _Source, factors: dict[str, Factors]) -> float:
    missed = total = 0.0
    for name, f in source.patch.factors.items():
        before, merged = linear_factors(f, source.strength), linear_factors(factors[name], -1.0)
        missed += moved_square([before, merged], source.moments.cc)
        total += moved_square([before], source.moments.cc)
    return math.sqrt(max(0.0, missed) / max(total, 1e-300))


def linear_factors(f: Factors, strength: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """up and down of strength * dW of a linear layer."""
    return f.up, f.down.double() * (strength * f.alpha / f.rank)


def merged_patch(
    patches: Sequence[ForgetPatch], method: str, factors: dict[str, Factors], settings: dict, figures: dict
) -> ForgetPatch:
    """A patch with everything that is known of its parts."""
    concepts = [c for p in patches for c in p.concepts]
    count = sum(max(1, len(c["phrases"])) for c in concepts)
    if count > MOST_NAMES:
        raise ForgetError(
            f"Expected patches of at most {MOST_NAMES:,} phrases together, got {count:,}. Merge fewer patches into one file."
        )
    base = next((p.base for p in patches if p.base), {})
    return ForgetPatch(factors, concepts, base, {"method": method, **settings}, rounded(figures))

"""What a concept's name still does to a model's predictions, and how far other prompts moved: forgetting measured without pictures and judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..closed_form.targets import ablated
from ..concepts.concept import Concept
from ..concepts.templates import fill_template
from ..errors import ForgetError
from ..model.protocol import ForgetModel
from ..model.sampler import seeded_noise
from ..model.tokens import EncodedPrompt
from ..model.transfer import send

# Shares of the training timesteps, from the highest noise down: what a picture shows is decided there.
LEVELS = (0.95, 0.8, 0.6)
TEMPLATES, OTHERS = 4, 6


@dataclass(frozen=True)
class ConceptEffect:
    """How far a model has forgotten.

    Attributes
    ----------
    left
        Share of what the name does to the predictions that is left: 1 in the untouched model, 0 where prompts with the name act as those
        without it do. Below 0 the model leads away from the concept.
    missed
        Distance of the predictions for prompts with the name from those of the untouched model for prompts without it, relative to what
        the name does.
    others
        How far the predictions for other prompts moved, relative to what their words do.
    """

    left: float
    missed: float
    others: float


def concept_effect(
    before: ForgetModel,
    after: ForgetModel,
    concept: Concept,
    others: Sequence[str],
    seed: int = 0,
    step: Callable[[], object] = lambda: None,
) -> ConceptEffect:
    """Measures what a concept's name still does after forgetting, by the predictions of both models on the same noised latents.

    Parameters
    ----------
    before, after
        The untouched model and the one that has forgotten.
    concept
        The concept. Its first name is measured in up to TEMPLATES of its templates.
    others
        Prompts of other things, of which up to OTHERS are measured.
    step
        Called after each pass, for progress; it may raise to interrupt.

    Raises
    ------
    ForgetError
        The concept has no templates, or there are no other prompts.

    Notes
    -----
    With p, q predictions of x0 of the untouched model for a prompt with and without the name, and p' that of the other model with it:
    left = <p' - q, p - q> / |p - q|^2 and missed = |p' - q| / |p - q|, means over LEVELS. Latents follow the untouched model: noise, then what
    it predicts for the prompt, noised again.
    """
    if not concept.templates or not others:
        raise ForgetError(
            f"Expected templates and other prompts, got {len(concept.templates)} and {len(others)}. Give one of each at least."
        )
    name = concept.names()[0]
    templates = _spread(concept.templates, TEMPLATES)
    full = before.encode([fill_template(t, name.text) for t in templates], [name.embedding] * len(templates))
    bare = before.encode([ablated(t) for t in templates])
    kept = before.encode(_spread(others, OTHERS))
    [empty] = before.encode([""])
    sizes, sigmas = before.latent_shape(), _levels(before)
    pairs = [*zip(full, bare), *((prompt, empty) for prompt in kept)]
    # One model after the other, since a host may have to bring their weights to the same place.
    untouched = [_follow(before, *pair, seeded_noise(sizes, seed + n), sigmas, step) for n, pair in enumerate(pairs)]
    sums = [_compare(after, prompt, seen, sigmas, step) for (prompt, _), seen in zip(pairs, untouched)]
    named, other = torch.stack(sums[: len(full)]).sum(0), torch.stack(sums[len(full) :]).sum(0)
    return ConceptEffect(
        left=float((named[:, 0] / named[:, 2]).mean()),
        missed=float((named[:, 1] / named[:, 2]).sqrt().mean()),
        others=float((other[:, 3] / other[:, 2]).sqrt().mean()),
    )


def _spread(items: Sequence[str], count: int) -> list[str]:
    """Up to `count` of the items, evenly spread."""
    return list(items[:: max(1, len(items) // count)][:count])


def _levels(model: ForgetModel) -> list[float]:
    sigmas = model.sigmas()
    return [float(sigmas[int(level * (len(sigmas) - 1))]) for level in LEVELS]


# Latents at a noise level, and the untouched model's predictions for them with the prompt and without what is measured of it.
_Seen = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _follow(
    model: ForgetModel,
    prompt: EncodedPrompt,
    without: EncodedPrompt,
    noise: torch.Tensor,
    sigmas: list[float],
    step: Callable,
) -> list[_Seen]:
    """Latents (1, C, h, w) from noise down the levels, each noised from the prediction for the prompt at the one before."""
    x, seen = noise[None] * (1 + sigmas[0] ** 2) ** 0.5, list[_Seen]()
    for sigma, following in zip(sigmas, [*sigmas[1:], 0.0]):
        p, q = _predict(model, x, sigma, prompt, step), _predict(model, x, sigma, without, step)
        seen.append((x, p, q))
        x = p + following * noise
    return seen


def _compare(
    model: ForgetModel, prompt: EncodedPrompt, seen: list[_Seen], sigmas: list[float], step: Callable
) -> torch.Tensor:
    """Sums (levels, 4) of <p' - q, p - q>, |p' - q|^2, |p - q|^2 and |p' - p|^2."""
    rows = []
    for (x, p, q), sigma in zip(seen, sigmas, strict=True):
        later = _predict(model, x, sigma, prompt, step)
        way, led = p - q, later - q
        rows.append(
            torch.stack([(led * way).sum(), led.square().sum(), way.square().sum(), (later - p).square().sum()])
        )
    return torch.stack(rows)


@torch.no_grad()
def _predict(model: ForgetModel, x: torch.Tensor, sigma: float, prompt: EncodedPrompt, step: Callable) -> torch.Tensor:
    latents, level = send(model.device, x, torch.tensor([sigma]))
    predicted = model.denoise(latents, level, [prompt.to(model.device)]).float().cpu()
    step()
    return predicted

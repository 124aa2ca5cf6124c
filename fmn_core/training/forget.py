"""Forgetting by gradient: attention re-steering (Algorithm 1 of Forget-Me-Not) and the visual denoising loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from ..concepts.concept import Concept, check_concepts
from ..errors import ForgetError
from ..model.protocol import ForgetModel
from ..patch.figures import rounded
from ..patch.patch import ForgetPatch, fingerprint
from .references import ImagePairs, References
from .settings import GradientSettings, check_settings
from .trainer import Step, Trainer


@dataclass
class History:
    """What a training reports: every step, the drift seen on the way, and what to tell the user."""

    steps: list[Step] = field(default_factory=list)
    drifts: list[tuple[int, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stopped: str = "all steps"


Progress = Callable[[int, int, dict], bool | None]


def train(trainer: Trainer, progress: Progress | None = None) -> History:
    """Runs the steps of a training, all of them or until a reason to stop.

    Reasons are the user, the attention target, the drift limit, and a loss that is no longer finite.
    """
    settings, history, recent = trainer.settings, History(), None
    for number in range(settings.steps):
        step = trainer.step(number)
        if step is None:
            history.stopped = "loss not finite"
            history.warnings.append(
                f"The loss was not finite at step {number + 1}: kept the state before step {trainer.good[0] + 1}. Lower the learning rate."
            )
            break
        history.steps.append(step)
        recent = step.mass if recent is None else 0.7 * recent + 0.3 * step.mass
        if progress is not None and progress(number + 1, settings.steps, _figures(trainer, history)):
            history.stopped = "stopped by the user"
            break
        if settings.target_mass > 0 and number >= 4 and recent < settings.target_mass * history.steps[0].mass:
            history.stopped = "attention target reached"
            break
        if settings.drift_every and (number + 1) % settings.drift_every == 0 and watch(trainer, history, number + 1):
            break
    if settings.drift_every and (not history.drifts or history.drifts[-1][0] != len(history.steps)):
        watch(trainer, history, len(history.steps))
    return history


def _figures(trainer: Trainer, history: History) -> dict:
    """What `progress` is told: loss, attention mass and its target, the last drift, and a preview's latents where one is due."""
    settings, step = trainer.settings, history.steps[-1]
    found: dict = {"loss": step.loss, "mass": step.mass, "target": settings.target_mass * history.steps[0].mass}
    if history.drifts:
        found["drift"] = history.drifts[-1][1]
    if settings.preview_every and (step.number + 1) % settings.preview_every == 0:
        found["preview"] = trainer.preview()
    return found


def watch(trainer: Trainer, history: History, number: int) -> bool:
    """Looks at the drift monitor; warns before collapse, and says whether to stop."""
    settings, drift = trainer.settings, trainer.drift()
    history.drifts.append((number, drift))
    if settings.drift_warning and drift > settings.drift_warning and not history.warnings:
        history.warnings.append(
            f"Preserve prompts have drifted by {drift:.3f} at step {number}, above {settings.drift_warning:g}: other concepts may be lost. "
            "Use fewer steps or a lower learning rate, raise preservation, or set target_mass."
        )
    if settings.drift_limit and drift > settings.drift_limit:
        history.stopped = "drift limit"
        return True
    return False


def forget_by_gradient(
    model: ForgetModel,
    concepts: list[Concept],
    references: Sequence[References],
    settings: GradientSettings | None = None,
    progress: Progress | None = None,
    pairs: Sequence[ImagePairs] | None = None,
) -> ForgetPatch:
    """Trains factors that turn the concept's attention away (Algorithm 1; eq. 7), or reproduce zeroed attention (eq. 9).

    `references`: of each concept; one zero latent where there are no images (`no_real_image` of the released code).
    `pairs`: of each concept, needed when `visual_weight` is above 0; they then take the references' place.
    `progress(done, total, figures)` is called every step, may raise to interrupt, and ends the training with what was learned so
    far by returning True. Everything random is drawn from one
    generator, so one seed gives one patch. Raises ForgetError on settings out of range, a phrase that is not found,
    missing pairs, and a loss that is not finite before anything good was learned. The model must allow gradients.
    """
    settings = settings or GradientSettings()
    check_settings(settings)
    check_concepts(model, concepts)
    if settings.visual_weight > 0 and pairs is None:
        raise ForgetError("Expected pairs for the visual denoising loss, got none. Make them with make_pairs.")
    started = time.perf_counter()
    trainer = Trainer(model, concepts, references, settings, pairs if settings.visual_weight > 0 else None)
    history = train(trainer, progress)
    factors, left = trainer.patch_factors()
    figures = {
        "steps": len(history.steps),
        "stopped": history.stopped,
        "learning_rate": trainer.rate,
        "losses": [s.loss for s in history.steps],
        "mass": [s.mass for s in history.steps],
        "drift": [list(pair) for pair in history.drifts],
        "warnings": history.warnings,
        "rank_residual": left,
        "preserve_drift": float(trainer.preservation().detach().sqrt()),
        "seconds": time.perf_counter() - started,
    }
    method = {"method": method_name(settings), **asdict(settings)}
    return ForgetPatch(factors, [c.as_dict() for c in concepts], fingerprint(model), method, rounded(figures))


def method_name(settings: GradientSettings) -> str:
    """What the settings amount to, in words."""
    parts = {"attention re-steering": settings.attention_weight, "visual denoising": settings.visual_weight}
    return " and ".join(name for name, weight in parts.items() if weight > 0)

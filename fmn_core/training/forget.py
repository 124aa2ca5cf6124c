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
    """Record of a training.

    Parameters
    ----------
    drifts
        Number of a step, and the drift after it.
    warnings
        Sentences for the user.
    stopped
        Reason why the training ended.
    """

    steps: list[Step] = field(default_factory=list)
    drifts: list[tuple[int, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stopped: str = "all steps"


Progress = Callable[[int, int, dict], bool | None]


def train(trainer: Trainer, progress: Progress | None = None) -> History:
    """Runs the steps of a training until all are done or it has to stop.

    Notes
    -----
    It stops at the user's wish, at the attention target, at the drift limit, and when the loss is no longer finite.
    """
    settings, history, mean_mass = trainer.settings, History(), None
    for number in range(settings.steps):
        step = trainer.step(number)
        if step is None:
            history.stopped = "loss not finite"
            history.warnings.append(
                f"The loss was not finite at step {number + 1}: kept the state before step {trainer.good_step + 1}. Lower the learning rate."
            )
            break
        history.steps.append(step)
        mean_mass = step.mass if mean_mass is None else 0.7 * mean_mass + 0.3 * step.mass
        if progress is not None and progress(number + 1, settings.steps, _progress_figures(trainer, history)):
            history.stopped = "stopped by the user"
            break
        if settings.target_mass > 0 and number >= 4 and mean_mass < settings.target_mass * history.steps[0].mass:
            history.stopped = "attention target reached"
            break
        if (
            settings.drift_every
            and (number + 1) % settings.drift_every == 0
            and check_drift(trainer, history, number + 1)
        ):
            break
    if settings.drift_every and (not history.drifts or history.drifts[-1][0] != len(history.steps)):
        check_drift(trainer, history, len(history.steps))
    return history


def _progress_figures(trainer: Trainer, history: History) -> dict:
    """Figures for `progress`: loss, attention mass and its target, the last drift, and the latents of a preview where one is due."""
    settings, step = trainer.settings, history.steps[-1]
    figures: dict = {"loss": step.loss, "mass": step.mass, "target": settings.target_mass * history.steps[0].mass}
    if history.drifts:
        figures["drift"] = history.drifts[-1][1]
    if settings.preview_every and (step.number + 1) % settings.preview_every == 0:
        figures["preview"] = trainer.preview()
    return figures


def check_drift(trainer: Trainer, history: History, number: int) -> bool:
    """Measures the drift after a step, warns when it is high, and returns whether it has reached its limit."""
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
    """Trains a forget patch by attention re-steering (Algorithm 1, eq. 7) or the visual denoising loss (eq. 9).

    Parameters
    ----------
    model
        It must allow gradients.
    references
        Reference latents of each concept; one zero latent where there are no images (`no_real_image` of the released code).
    progress
        Called every step as progress(done, total, figures). It may raise to interrupt. Returning True ends the training and keeps what
        was learned so far.
    pairs
        Image pairs of each concept, which take the references' place; needed when `visual_weight` is above 0.

    Raises
    ------
    ForgetError
        On settings out of range, a phrase that is not found, missing pairs, and a loss that is not finite in the first steps.

    Notes
    -----
    Everything random is drawn from one generator, so one seed gives one patch.
    """
    settings = settings or GradientSettings()
    check_settings(settings)
    check_concepts(model, concepts)
    if settings.visual_weight > 0 and pairs is None:
        raise ForgetError("Expected pairs for the visual denoising loss, got none. Make them with make_pairs.")
    started = time.perf_counter()
    trainer = Trainer(model, concepts, references, settings, pairs if settings.visual_weight > 0 else None)
    history = train(trainer, progress)
    factors, residual = trainer.patch_factors()
    figures = {
        "steps": len(history.steps),
        "stopped": history.stopped,
        "learning_rate": trainer.learning_rate,
        "losses": [s.loss for s in history.steps],
        "mass": [s.mass for s in history.steps],
        "drift": [list(pair) for pair in history.drifts],
        "warnings": history.warnings,
        "rank_residual": residual,
        "preserve_drift": float(trainer.preservation().detach().sqrt()),
        "seconds": time.perf_counter() - started,
    }
    method = {"method": method_name(settings), **asdict(settings)}
    return ForgetPatch(factors, [c.as_dict() for c in concepts], fingerprint(model), method, rounded(figures))


def method_name(settings: GradientSettings) -> str:
    """Names the losses that the settings use."""
    weights = {"attention re-steering": settings.attention_weight, "visual denoising": settings.visual_weight}
    return " and ".join(name for name, weight in weights.items() if weight > 0)

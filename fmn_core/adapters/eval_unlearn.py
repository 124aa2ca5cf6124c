"""The technique `forget_me_not` of the benchmark package eval-unlearn, which draws with a patched model from a local folder.

eval-unlearn finds the class by the entry point in pyproject.toml, passes it a run's `technique.config`, and calls `generate` for
pictures. It needs no base class, so nothing of it is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import StrictBool, StrictFloat, StrictInt

from ..closed_form.forget import forget_closed_form
from ..closed_form.settings import ClosedFormSettings
from ..concepts.concept import make_concept
from ..errors import ForgetError
from ..options import option, options
from ..patch.file import load_patch, save_patch
from ..patch.patch import ForgetPatch
from .diffusers_folder import apply_patch, best_device, load_pipeline
from .diffusers_model import DiffusersModel


@options
class TechniqueSettings:
    """Options in `technique.config` of eval-unlearn.

    Notes
    -----
    Numbers are strict: a configuration file with text or a boolean in place of a number is refused.
    """

    folder: str = option(
        default="",
        help="Folder of a diffusers pipeline as save_pretrained writes it, with safetensors weights. Nothing is downloaded.",
    )
    patch: str = option(
        default="", help="Patch file of this pack. Without one, the concept is forgotten in closed form."
    )
    erase_concept: str = option(
        default="",
        help="Phrase to forget. With a patch it is only the name that eval-unlearn puts into its report.",
    )
    synonyms: list[str] = option(default=list, help="Other phrases of the concept.")
    kind: str = option(default="object", help="Kind of the concept: object, identity, style or unsafe.")
    preserve_prompts: list[str] = option(default=list, help="Prompts to keep as they are, as in ClosedFormSettings.")
    save_path: str = option(default="", help="Where to write the patch that was solved for. Empty: it is not written.")
    device: str = option(default="", help="Device to draw on, such as cuda. Empty: CUDA or Metal where there is one.")
    use_fp16: StrictBool = option(default=True, help="Half precision, on CUDA only.")
    num_inference_steps: StrictInt = option(
        default=50, help="Sampling steps of a picture, with the scheduler of the folder; 20 to 50 are usual.", minimum=1
    )
    guidance_scale: StrictFloat = option(default=7.5, help="Scale of classifier-free guidance.")


class ForgetMeNot:
    """The technique that eval-unlearn calls. It draws pictures with a patched pipeline.

    Parameters
    ----------
    config
        Options of TechniqueSettings; None takes an option's default.

    Attributes
    ----------
    pipeline
        The diffusers pipeline with the patch loaded.

    Raises
    ------
    ForgetError
        By the constructor, on settings, folders and patches that cannot be used.
    """

    def __init__(self, **config: Any):
        self.settings = settings_from(config)
        self.device = self.settings.device or best_device()
        self.pipeline = patched_pipeline(self.settings, self.device)

    def generate(self, prompts: Sequence[str], seed: int | None = None, **options: Any) -> list[Any]:
        """Draws one PIL picture of every prompt.

        Parameters
        ----------
        seed
            Seed of the first picture; every next one has the next seed, as in eval-unlearn's own techniques. None draws at random.
        options
            Arguments of the pipeline's call, which override the settings.
        """
        arguments = {
            "num_inference_steps": self.settings.num_inference_steps,
            "guidance_scale": self.settings.guidance_scale,
        } | options
        return [self._draw(prompt, None if seed is None else seed + n, arguments) for n, prompt in enumerate(prompts)]

    def _draw(self, prompt: str, seed: int | None, arguments: dict[str, Any]) -> Any:
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        return self.pipeline(prompt, generator=generator, **arguments).images[0]


def settings_from(config: dict[str, Any]) -> TechniqueSettings:
    """Checks a configuration and turns it into settings.

    Parameters
    ----------
    config
        Options of TechniqueSettings; None takes an option's default.

    Raises
    ------
    ForgetError
        On unknown options, values of another type or out of range, and options that contradict each other.
    """
    settings = TechniqueSettings(**{name: value for name, value in config.items() if value is not None})
    if not settings.patch and not settings.erase_concept.strip():
        raise ForgetError(
            "Expected a patch file or a phrase to forget, got neither. Set `patch` or `erase_concept` in technique.config."
        )
    if settings.patch and (settings.save_path or settings.synonyms or settings.preserve_prompts):
        raise ForgetError(
            "Expected `save_path`, `synonyms` and `preserve_prompts` only for a patch that is made here, got `patch` too. Remove it, or them."
        )
    return settings


def patched_pipeline(settings: TechniqueSettings, device: str) -> Any:
    """Loads the pipeline in the settings' folder with the patch, which is solved for where the settings name no file.

    Raises
    ------
    ForgetError
        When the patch or the pipeline cannot be read, do not fit each other, or a new patch cannot be solved for or written.
    """
    # A patch that cannot be read is noticed before the pipeline takes its time to load.
    patch = load_patch(Path(settings.patch).expanduser()) if settings.patch else None
    pipeline = load_pipeline(Path(settings.folder).expanduser(), device, settings.use_fp16)
    apply_patch(pipeline, patch or _solve_patch(DiffusersModel(pipeline), settings))
    return pipeline


def _solve_patch(model: DiffusersModel, settings: TechniqueSettings) -> ForgetPatch:
    """Solves for the patch in closed form; returns it with values rounded as in its file."""
    concept = make_concept(model, "\n".join([settings.erase_concept, *settings.synonyms]), settings.kind)
    patch = forget_closed_form(model, [concept], ClosedFormSettings(preserve_prompts=settings.preserve_prompts))
    if settings.save_path:
        _save(patch, Path(settings.save_path).expanduser())
    return patch.as_stored()


def _save(patch: ForgetPatch, path: Path) -> None:
    try:
        save_patch(patch, path)
    except OSError as error:
        raise ForgetError(f"Expected to write the patch to {path}, but: {error}. Choose another save_path.") from error

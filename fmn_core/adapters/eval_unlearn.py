"""The technique `forget_me_not` of the benchmark package eval-unlearn: a model that has forgotten, from a local folder.

eval-unlearn finds the class by the entry point in pyproject.toml, gives it `technique.config` of a run and asks it for pictures. That is
all it wants of a technique, so nothing of it is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..closed_form.forget import forget_closed_form
from ..closed_form.settings import ClosedFormSettings
from ..concepts.concept import make_concept
from ..errors import ForgetError
from ..patch.file import load_patch, save_patch
from ..patch.patch import ForgetPatch
from .diffusers_folder import apply_patch, best_device, load_pipeline
from .diffusers_model import DiffusersModel


@dataclass(frozen=True)
class TechniqueSettings:
    """What may stand in `technique.config`; null is the default.

    `folder`: a pipeline of diffusers, weights as safetensors; nothing is downloaded. `patch`: a patch file of this pack. Without one, the
    concept named by `erase_concept` and `synonyms`, of a kind in templates.KINDS, is forgotten in closed form: `preserve_prompts` as in
    ClosedFormSettings, and the patch is written to `save_path` where that is given. With a patch, `erase_concept` is only the name that
    eval-unlearn puts into its report. `device`: empty takes CUDA or Metal where there is one; `use_fp16`: half precision, on CUDA only.
    `num_inference_steps`, `guidance_scale`: of a picture, with the scheduler of the folder.
    """

    folder: str = ""
    patch: str = ""
    erase_concept: str = ""
    synonyms: list[str] = field(default_factory=list)
    kind: str = "object"
    preserve_prompts: list[str] = field(default_factory=list)
    save_path: str = ""
    device: str = ""
    use_fp16: bool = True
    num_inference_steps: int = 50
    guidance_scale: float = 7.5


class ForgetMeNot:
    """Draws with a model that has forgotten; the interface that eval-unlearn wants of a technique.

    `pipeline`: that model. Raises ForgetError on settings, folders and patches that cannot be used.
    """

    def __init__(self, **config: Any):
        self.settings = settings_from(config)
        self.device = self.settings.device or best_device()
        self.pipeline = patched_pipeline(self.settings, self.device)

    def generate(self, prompts: Sequence[str], seed: int | None = None, **options: Any) -> list[Any]:
        """A PIL picture per prompt; the n-th starts from `seed` + n, as in eval-unlearn's own techniques.

        `options` go to the pipeline, and before the settings.
        """
        wanted = {
            "num_inference_steps": self.settings.num_inference_steps,
            "guidance_scale": self.settings.guidance_scale,
        }
        seeds = [None if seed is None else seed + n for n in range(len(prompts))]
        return [self._draw(prompt, one, wanted | options) for prompt, one in zip(prompts, seeds)]

    def _draw(self, prompt: str, seed: int | None, options: dict[str, Any]) -> Any:
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        return self.pipeline(prompt, generator=generator, **options).images[0]


def settings_from(config: dict[str, Any]) -> TechniqueSettings:
    """The settings in a configuration; raises ForgetError on unknown names, values of another type, and what contradicts itself."""
    known = asdict(TechniqueSettings())
    given = {name: value for name, value in config.items() if value is not None}
    for name, value in given.items():
        if name not in known:
            raise ForgetError(f"Expected settings among {', '.join(known)}, got {name!r}. Correct or remove it.")
        if not _is_like(value, known[name]):
            raise ForgetError(
                f"Expected {name} to be of the type of {known[name]!r}, got {value!r}. Correct or remove it."
            )
    settings = TechniqueSettings(**given)
    _check(settings)
    return settings


def _is_like(value: Any, default: Any) -> bool:
    if isinstance(default, list):
        return isinstance(value, list) and all(isinstance(x, str) for x in value)
    allowed = (int, float) if isinstance(default, float) else type(default)
    return isinstance(value, allowed) and isinstance(value, bool) == isinstance(default, bool)


def _check(settings: TechniqueSettings) -> None:
    if not settings.patch and not settings.erase_concept.strip():
        raise ForgetError(
            "Expected a patch file or a phrase to forget, got neither. Set `patch` or `erase_concept` in technique.config."
        )
    if settings.patch and (settings.save_path or settings.synonyms or settings.preserve_prompts):
        raise ForgetError(
            "Expected `save_path`, `synonyms` and `preserve_prompts` only for a patch that is made here, got `patch` too. Remove it, or them."
        )
    if settings.num_inference_steps < 1:
        raise ForgetError(f"Expected 1 or more num_inference_steps, got {settings.num_inference_steps}. Use 20 to 50.")


def patched_pipeline(settings: TechniqueSettings, device: str) -> Any:
    """The pipeline of the folder with the patch on it.

    Raises ForgetError as load_patch, load_pipeline, forget_closed_form and apply_patch do, and when the patch cannot be written.
    """
    # Before the model, which takes longer to load.
    patch = load_patch(Path(settings.patch).expanduser()) if settings.patch else None
    pipeline = load_pipeline(Path(settings.folder).expanduser(), device, settings.use_fp16)
    apply_patch(pipeline, patch or _forgotten(DiffusersModel(pipeline), settings))
    return pipeline


def _forgotten(model: DiffusersModel, settings: TechniqueSettings) -> ForgetPatch:
    """The closed-form patch for the phrases, with the values that its file holds."""
    concept = make_concept(model, "\n".join([settings.erase_concept, *settings.synonyms]), settings.kind)
    wanted = ClosedFormSettings(preserve_prompts=list(settings.preserve_prompts))
    patch = forget_closed_form(model, [concept], wanted)
    if settings.save_path:
        _save(patch, Path(settings.save_path).expanduser())
    return patch.as_stored()


def _save(patch: ForgetPatch, path: Path) -> None:
    try:
        save_patch(patch, path)
    except OSError as error:
        raise ForgetError(f"Expected to write the patch to {path}, but: {error}. Choose another save_path.") from error

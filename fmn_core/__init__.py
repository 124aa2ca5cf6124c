"""The public API of Forget-Me-Not for scripts, free of any user interface.

Everything else is in the packages below, by topic. `DiffusersModel` is imported on first use, because it needs diffusers.
"""

from typing import TYPE_CHECKING, Any

from .closed_form.forget import forget_closed_form
from .closed_form.settings import ClosedFormSettings
from .compose.fusion import fuse_patches
from .compose.merge import MergeSettings, sum_patches
from .compose.side_by_side import side_by_side
from .concepts.concept import Concept, make_concept
from .errors import ForgetError
from .model.protocol import ForgetModel, TextModel
from .patch.diffusers_names import diffusers_lora
from .patch.file import load_patch, save_patch
from .patch.patch import ForgetPatch
from .patch.shrink import shrink_patch
from .training.forget import forget_by_gradient
from .training.references import ImagePairs, References, make_pairs
from .training.settings import GradientSettings
from .version import __version__

if TYPE_CHECKING:
    from .adapters.diffusers_model import DiffusersModel

__all__ = [
    "ClosedFormSettings",
    "Concept",
    "DiffusersModel",
    "ForgetError",
    "ForgetModel",
    "ForgetPatch",
    "GradientSettings",
    "ImagePairs",
    "MergeSettings",
    "References",
    "TextModel",
    "__version__",
    "diffusers_lora",
    "forget_by_gradient",
    "forget_closed_form",
    "fuse_patches",
    "load_patch",
    "make_concept",
    "make_pairs",
    "save_patch",
    "shrink_patch",
    "side_by_side",
    "sum_patches",
]


def __getattr__(name: str) -> Any:
    if name == "DiffusersModel":
        from .adapters.diffusers_model import DiffusersModel

        return DiffusersModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Lets a ComfyUI start where only CPU builds of torch exist; does nothing where torchvision and torchaudio work.

The registries' torchvision wheels are CUDA builds: beside a CPU build of torch their native part cannot load, and the
import fails on operators that were never registered. Declaring the operators first makes the Python part importable.
torchaudio has the same problem; the host needs it for audio nodes only, so an empty stand-in package is enough.
"""

import importlib.metadata
import importlib.util
import sys
import types

_libraries = []  # a torch.library.Library takes its operators away again when it is collected


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _declare_torchvision_operators() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)


def _stand_in_for_torchaudio() -> None:
    import importlib.machinery

    names = ("torchaudio", "torchaudio.transforms", "torchaudio.functional")
    audio, transforms, functional = (types.ModuleType(name) for name in names)
    transforms.MelScale = type("MelScale", (), {})
    audio.transforms, audio.functional = transforms, functional
    audio.__path__ = []  # makes it a package: newer hosts write `import torchaudio.functional`
    for module in (audio, transforms, functional):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None, is_package=module is audio)
        sys.modules[module.__name__] = module


def apply() -> None:
    """Registers what is missing; safe to call twice."""
    torchvision = _version("torchvision")
    if _version("torch").endswith("+cpu") and torchvision and not torchvision.endswith("+cpu") and not _libraries:
        _declare_torchvision_operators()
    if importlib.util.find_spec("torchaudio") is None:
        _stand_in_for_torchaudio()


apply()

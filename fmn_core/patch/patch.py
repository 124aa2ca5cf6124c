"""The forget patch: low-rank factors by layer with metadata, and the fingerprint of the base model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..errors import ForgetError, plain_text
from ..model.entries import CONTEXT, POOLED, chosen_entries
from ..model.protocol import ForgetModel
from ..model.transfer import read
from ..version import __version__

FORMAT_VERSION = "1"
TOOL = f"comfyui-forget-me-not {__version__}"
# Fields that the maker of a patch fills in, and the metadata keys where other tools look for them; the preview is a data URI.
ABOUT = {
    "title": "modelspec.title",
    "author": "modelspec.author",
    "licence": "modelspec.license",
    "notes": "modelspec.description",
    "preview": "modelspec.thumbnail",
}
PREFIX = "lora_unet_"


# Layers that only the host finds under the kohya name of their diffusers path, and all loaders under that of their original path.
_ORIGINAL_PATHS = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}


# How kohya's trainer names the base of a file. Other programs tell by it for which models a file is, and take one without for SD 1.x.
_KOHYA_VERSIONS = {
    "stable-diffusion-v2-512": {"ss_base_model_version": "sd_v2", "ss_v2": "True"},
    "stable-diffusion-xl-v1-base": {"ss_base_model_version": "sdxl_base_v1-0"},
}


def kohya_name(layer: str, projection: str = "") -> str:
    """The kohya-style LoRA name of a module: lora_unet_, then its diffusers path with underscores."""
    path = f"{layer}.{projection}" if projection else layer
    return PREFIX + _ORIGINAL_PATHS.get(path, path).replace(".", "_")


@dataclass
class Factors:
    """The low-rank factors of one layer's change, dW = alpha / rank * up @ down.

    Attributes
    ----------
    up
        (out, rank), or (out, rank, 1, 1) for a convolution.
    down
        (rank, in), or (rank, in, k, k).
    alpha
        Scale of the change; dW is up @ down where it is the rank.
    """

    up: torch.Tensor
    down: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """The number of rows of `down`."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of dW: (out, in) or (out, in, k, k)."""
        return (self.up.shape[0], *self.down.shape[1:])

    def of_rank(self, rank: int) -> Factors:
        """The same change with factors of a larger rank, by zeros."""
        further = rank - self.rank
        up = torch.cat([self.up, self.up.new_zeros(self.up.shape[0], further, *self.up.shape[2:])], 1)
        down = torch.cat([self.down, self.down.new_zeros(further, *self.down.shape[1:])])
        return Factors(up, down, self.alpha * rank / self.rank)

    def delta(self) -> torch.Tensor:
        """dW in float32, (out, in) or (out, in, k, k)."""
        up, down = self.up.float(), self.down.float()
        delta = up.flatten(1) @ down.flatten(1) * (self.alpha / self.rank)
        return delta.reshape(up.shape[0], *down.shape[1:])


@dataclass
class ForgetPatch:
    """A learned change of a model, and the metadata of its file. All metadata is JSON.

    Attributes
    ----------
    factors
        The factors of each changed layer, by kohya name.
    concepts
        One record per concept, see Concept.as_dict.
    base
        Fingerprint of the model that the patch was made on, see fingerprint.
    settings
        Options of the method.
    figures
        Figures that were measured while the patch was made.
    about
        Texts of the maker, by the names in ABOUT.
    tool
        The program that made the patch, with its version.
    parts
        One record per part of a patch that holds several side by side, see parts.describe_part.
    """

    factors: dict[str, Factors]
    concepts: list[dict[str, Any]]
    base: dict[str, Any]
    settings: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    tool: str = TOOL
    parts: list[dict[str, Any]] = field(default_factory=list)

    def state_dict(self, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
        """The tensors of the file: kohya keys, contiguous, on the CPU."""
        tensors = {}
        for name, f in sorted(self.factors.items()):
            tensors[f"{name}.lora_up.weight"] = f.up.detach().to("cpu", dtype).contiguous()
            tensors[f"{name}.lora_down.weight"] = f.down.detach().to("cpu", dtype).contiguous()
            tensors[f"{name}.alpha"] = torch.tensor(float(f.alpha), dtype=torch.float32)
        return tensors

    def as_stored(self, dtype: torch.dtype = torch.float16) -> ForgetPatch:
        """Rounds the factors to the precision of the file, so that patch and file give the same pictures.

        Raises
        ------
        ForgetError
            Where a factor is not finite in this precision.
        """
        stored = {
            n: Factors(f.up.to(dtype).float(), f.down.to(dtype).float(), f.alpha) for n, f in self.factors.items()
        }
        for name, f in stored.items():
            check_finite(name, f.up, f.down)
        return replace(self, factors=stored)

    def metadata(self) -> dict[str, str]:
        """The metadata of the file: `ss_*` and `modelspec.*` for other tools, `fmn.*` for this one."""
        phrases = ", ".join(p for c in self.concepts for p in c["phrases"]) or "an inverted concept"
        rank = max((f.rank for f in self.factors.values()), default=0)
        return {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(rank),
            "ss_network_alpha": str(float(rank)),
            "ss_base_model_version": str(self.base.get("architecture", "")),
            **_KOHYA_VERSIONS.get(str(self.base.get("architecture", "")), {}),
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": f"{self.base.get('architecture', 'stable-diffusion')}/lora",
            "modelspec.title": f"Forget {phrases}",
            "modelspec.description": f"Makes the model forget: {phrases}. Apply like any LoRA, strength 1.",
            **{ABOUT[name]: text for name, text in self.about.items() if text},
            "fmn.version": FORMAT_VERSION,
            "fmn.tool": self.tool,
            "fmn.about": json.dumps({k: v for k, v in self.about.items() if k != "preview"}, sort_keys=True),
            "fmn.concepts": json.dumps(self.concepts, sort_keys=True),
            "fmn.base": json.dumps(self.base, sort_keys=True),
            "fmn.settings": json.dumps(self.settings, sort_keys=True),
            # Seconds differ from run to run, and two runs with one seed must give the same file.
            "fmn.figures": json.dumps({k: v for k, v in self.figures.items() if k not in OF_THE_RUN}, sort_keys=True),
            **({"fmn.parts": json.dumps(self.parts, sort_keys=True)} if self.parts else {}),
        }


def check_finite(name: str, *tensors: torch.Tensor) -> None:
    """Raises ForgetError, naming the layer, where a tensor holds NaN or infinity."""
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise ForgetError(
            f"Expected finite factors, got NaN or infinity in {name}. Lower the learning rate or the strength."
        )


# Figures that say how a training ran, and not what it learned. They are in no file, because the same training gives the same file.
OF_THE_RUN = ("seconds", "encoded")


def fingerprint(model: ForgetModel) -> dict[str, Any]:
    """The fingerprint of a loaded model, see fingerprint_of_weights."""
    base = fingerprint_of_weights(model.weights([e.name for e in chosen_entries(model, CONTEXT, "keys")], None))
    if not model.cross_attention():
        # Chroma has FLUX.1's shapes, and no pooled embedding.
        reads_pooled = any(entry.reads == POOLED for entry in model.text_entries())
        base["architecture"] = transformer_architecture(base["shapes"], reads_pooled)
    return base


def fingerprint_of_weights(weights: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Computes the fingerprint that tells base models apart: shapes and norms of the cross-attention keys, or of what else reads text.

    Parameters
    ----------
    weights
        Wk (out, d) of each cross-attention layer, in forward order, on any device.

    Returns
    -------
    "architecture", "context_dim" (d), "shapes", and "norms" to five significant digits; see base_difference.
    """
    shapes, norms = [], []
    for w in weights:
        shapes.append(list(w.shape))
        # Not every device has float64.
        norms.append((w.double() if w.device.type == "cpu" else w).norm())
    return {
        "architecture": architecture(shapes),
        "context_dim": shapes[0][1],
        "shapes": shapes,
        "norms": [float(f"{norm:.5g}") for norm in read(norms)],
    }


def architecture(shapes: Sequence[Sequence[int]]) -> str:
    """The modelspec name of a model family, given the shapes of the weights that read its context."""
    layers, (width, context_dim) = len(shapes), shapes[0]
    known = {
        (16, 768): "stable-diffusion-v1",
        (16, 1024): "stable-diffusion-v2-512",
        (70, 2048): "stable-diffusion-xl-v1-base",
    }
    if layers == 1:
        return f"transformer-{width}x{context_dim}"
    return known.get((layers, context_dim), f"unet-{layers}x{context_dim}")


def transformer_architecture(shapes: Sequence[Sequence[int]], reads_pooled: bool) -> str:
    """The modelspec name of a transformer, given the shapes of the weights that read its context, and whether it reads a pooled embedding."""
    width, context_dim = shapes[0]
    if reads_pooled and (width, context_dim) == (3072, 4096):
        return "flux-1-dev"
    layers = f"{len(shapes)}x" if len(shapes) > 1 else ""
    return f"transformer-{layers}{width}x{context_dim}"


def base_difference(patch: dict[str, Any], model: dict[str, Any], tolerance: float = 2e-3) -> str:
    """Compares the fingerprint of a patch's base with that of a model.

    Parameters
    ----------
    patch, model
        Fingerprints; the patch's may be empty or lack fields.
    tolerance
        Relative difference of norms up to which they count as equal. The same checkpoint in another precision stays below it.

    Returns
    -------
    The difference as a clause for the report; empty where there is none, or where the patch has no fingerprint.
    """
    if not patch:
        return ""
    if patch.get("shapes") != model.get("shapes"):
        return f"the patch was made on another architecture ({plain_text(patch.get('architecture', 'unknown'), 200)})"
    pairs = list(zip(patch.get("norms", []), model.get("norms", [])))
    changes = [abs(x - y) / max(abs(x), 1e-12) for x, y in pairs if not math.isclose(x, y, rel_tol=tolerance)]
    if not changes:
        return ""
    return (
        f"the patch was made on another base model, or a fine-tune: {len(changes)} of {len(pairs)} attention keys differ, "
        f"by up to {max(changes):.1%} of their norm"
    )

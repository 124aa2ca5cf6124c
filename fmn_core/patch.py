"""ForgetPatch: what was learned, as low-rank factors, and its file."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .errors import ForgetError
from .model import ForgetModel
from .safetensors_file import write_safetensors

FORMAT_VERSION = "1"
_PREFIX = "lora_unet_"
_KEY = re.compile(rf"^({_PREFIX}[a-z0-9_]+)\.(lora_up\.weight|lora_down\.weight|alpha)$")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def kohya_name(layer: str, projection: str = "") -> str:
    """The kohya-style LoRA name of a module: lora_unet_ and its diffusers path with underscores."""
    return _PREFIX + (f"{layer}.{projection}" if projection else layer).replace(".", "_")


@dataclass
class Factors:
    """One layer's change dW = alpha / rank * up @ down; up (out, rank), down (rank, in), kernels as 4-d tensors."""

    up: torch.Tensor
    down: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self) -> torch.Tensor:
        """dW in float32, (out, in) or (out, in, k, k)."""
        up, down = self.up.float(), self.down.float()
        delta = up.flatten(1) @ down.flatten(1) * (self.alpha / self.rank)
        return delta.reshape(up.shape[0], *down.shape[1:])


@dataclass
class ForgetPatch:
    """Factors by kohya name, and where they come from.

    `concepts`: one dict per concept (phrases, kind). `base`: fingerprint of the model it was made on. `settings` and
    `figures`: what was asked for and what was measured, JSON-serialisable.
    """

    factors: dict[str, Factors]
    concepts: list[dict[str, Any]]
    base: dict[str, Any]
    settings: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)

    def state_dict(self, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
        """The tensors as they are stored: kohya keys, contiguous, on the CPU."""
        tensors = {}
        for name, f in sorted(self.factors.items()):
            tensors[f"{name}.lora_up.weight"] = f.up.detach().to("cpu", dtype).contiguous()
            tensors[f"{name}.lora_down.weight"] = f.down.detach().to("cpu", dtype).contiguous()
            tensors[f"{name}.alpha"] = torch.tensor(float(f.alpha), dtype=torch.float32)
        return tensors

    def as_stored(self, dtype: torch.dtype = torch.float16) -> ForgetPatch:
        """The patch with the values its file holds, so that memory and file give the same pictures."""
        stored = {
            n: Factors(f.up.to(dtype).float(), f.down.to(dtype).float(), f.alpha) for n, f in self.factors.items()
        }
        return ForgetPatch(stored, self.concepts, self.base, self.settings, self.figures)

    def metadata(self) -> dict[str, str]:
        """File metadata, strings only: ss_* and modelspec.* for other tools, fmn.* for this one."""
        phrases = ", ".join(p for c in self.concepts for p in c["phrases"]) or "an inverted concept"
        rank = max((f.rank for f in self.factors.values()), default=0)
        return {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(rank),
            "ss_network_alpha": str(float(rank)),
            "ss_base_model_version": str(self.base.get("architecture", "")),
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": f"{self.base.get('architecture', 'stable-diffusion')}/lora",
            "modelspec.title": f"Forget {phrases}",
            "modelspec.description": f"Makes the model forget: {phrases}. Apply like any LoRA, strength 1.",
            "fmn.version": FORMAT_VERSION,
            "fmn.concepts": json.dumps(self.concepts, sort_keys=True),
            "fmn.base": json.dumps(self.base, sort_keys=True),
            "fmn.settings": json.dumps(self.settings, sort_keys=True),
            # seconds differ from run to run, and two runs with one seed must give one file
            "fmn.figures": json.dumps({k: v for k, v in self.figures.items() if k != "seconds"}, sort_keys=True),
        }


def fingerprint(model: ForgetModel) -> dict[str, Any]:
    """The fingerprint of a model as it is loaded, see fingerprint_of_weights."""
    return fingerprint_of_weights(model.weights([(layer.name, "to_k") for layer in model.cross_attention()]))


def fingerprint_of_weights(weights: list[torch.Tensor]) -> dict[str, Any]:
    """What tells base models apart: shapes and norms of the cross-attention keys, in forward order.

    Norms are compared with a tolerance, so that the same checkpoint in another precision still matches.
    """
    return {
        "architecture": architecture(len(weights), weights[0].shape[1]),
        "context_dim": weights[0].shape[1],
        "shapes": [list(w.shape) for w in weights],
        "norms": [float(f"{w.double().norm().item():.5g}") for w in weights],
    }


def architecture(layers: int, context_dim: int) -> str:
    """The modelspec name of a family, told by its number of attn2 layers and its conditioning width."""
    known = {
        (16, 768): "stable-diffusion-v1",
        (16, 1024): "stable-diffusion-v2-512",
        (70, 2048): "stable-diffusion-xl-v1-base",
    }
    return known.get((layers, context_dim), f"unet-{layers}x{context_dim}")


def same_base(a: dict[str, Any], b: dict[str, Any], tolerance: float = 2e-3) -> bool:
    """Whether two fingerprints belong to the same base model."""
    if a.get("shapes") != b.get("shapes"):
        return False
    return all(math.isclose(x, y, rel_tol=tolerance) for x, y in zip(a.get("norms", []), b.get("norms", [])))


def save_patch(patch: ForgetPatch, path: Path, dtype: torch.dtype = torch.float16) -> int:
    """Writes the patch as safetensors to a temporary file and moves it into place; returns its size in bytes.

    Raises ForgetError when a factor is not finite in the stored precision; nothing is written then.
    """
    tensors = patch.state_dict(dtype)
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ForgetError(
                f"Expected finite factors, got NaN or infinity in {key}. Lower the learning rate or the strength."
            )
    return write_safetensors(tensors, patch.metadata(), path)


def load_patch(path: Path) -> ForgetPatch:
    """Reads and checks a patch file.

    Accepts any LoRA with kohya-style UNet keys; the fmn.* metadata may be absent. Raises ForgetError, with the reason,
    on a missing, truncated, pickled or foreign file, unknown key names, wrong shapes or dtypes, NaN or infinity.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ForgetError(
            f"Expected a patch file, found none at {path.name}. Choose another file or train the patch first."
        )
    with path.open("rb") as f:
        head = f.read(9)
    # A safetensors header can start with the same two bytes as a pickle: they are its length. Then a brace follows.
    if head[8:] != b"{" and (head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] <= b"\x05")):
        raise ForgetError(
            f"Expected a safetensors file, got a pickle in {path.name}, which can run code. It was not opened."
        )
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 (safe_open is no dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise ForgetError(
            f"Expected a safetensors file, but {path.name} is corrupt, cut short or of another format ({error})."
        ) from error
    return ForgetPatch(
        factors=_factors(tensors, path.name),
        concepts=_json(metadata, "fmn.concepts", []),
        base=_json(metadata, "fmn.base", {}),
        settings=_json(metadata, "fmn.settings", {}),
        figures=_json(metadata, "fmn.figures", {}),
    )


def _json(metadata: dict[str, str], key: str, default):
    try:
        value = json.loads(metadata.get(key, ""))
    except json.JSONDecodeError:
        return default
    return value if isinstance(value, type(default)) else default


def _factors(tensors: dict[str, torch.Tensor], file: str) -> dict[str, Factors]:
    """Groups and checks the tensors of a file."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            raise ForgetError(
                f"Expected only kohya-style UNet LoRA keys in {file}, got {key!r}. This is not a forget patch."
            )
        if tensor.dtype not in _FLOATS:
            raise ForgetError(f"Expected floating-point factors in {file}, got {tensor.dtype} in {key!r}.")
        if not torch.isfinite(tensor.float()).all():
            raise ForgetError(
                f"Expected finite factors in {file}, got NaN or infinity in {key!r}. Train the patch again."
            )
        groups.setdefault(match[1], {})[match[2]] = tensor
    if not groups:
        raise ForgetError(f"Expected LoRA factors in {file}, got an empty file. Train the patch again.")
    return {name: _checked(name, group, file) for name, group in groups.items()}


def _checked(name: str, group: dict[str, torch.Tensor], file: str) -> Factors:
    up, down = group.get("lora_up.weight"), group.get("lora_down.weight")
    if up is None or down is None:
        raise ForgetError(
            f"Expected lora_up and lora_down for {name} in {file}, one is missing. The file is incomplete."
        )
    if up.ndim not in (2, 4) or down.ndim != up.ndim or up.shape[1] != down.shape[0]:
        raise ForgetError(
            f"Expected factors (out, rank) and (rank, in) for {name} in {file}, got {list(up.shape)} and {list(down.shape)}."
        )
    alpha = group.get("alpha")
    if alpha is not None and alpha.numel() != 1:
        raise ForgetError(f"Expected one number as alpha of {name} in {file}, got {list(alpha.shape)}.")
    return Factors(up, down, float(down.shape[0] if alpha is None else alpha.item()))

"""The file of a patch: written whole or not at all, and checked, as a stranger's, before anything of it is used."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .concept import concept_from_dict
from .errors import ForgetError
from .patch import ABOUT, PREFIX, Factors, ForgetPatch
from .safetensors_file import safetensors_bytes, write_whole
from .templates import KINDS

# A whole SDXL UNet has some 800 layers of three tensors each.
MOST_TENSORS = 20_000
LONGEST_NAME = 300
_KEY = re.compile(rf"({PREFIX}[a-z0-9_]+)\.(lora_up\.weight|lora_down\.weight|alpha)")
_EMBEDDING = re.compile(r"bundle_emb\.[\w.+-]{1,200}\.(string_to_param\.\*|clip_[lgh])")
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def patch_bytes(patch: ForgetPatch, dtype: torch.dtype = torch.float16, embedding_keys: bool = False) -> bytes:
    """The content of a patch's file.

    `embedding_keys`: stores inverted concepts as `bundle_emb.*` tensors too, the form in which ComfyUI and A1111 find an
    embedding in a LoRA file (diffusers refuses files that hold them). Raises ForgetError when a factor is not finite in
    the stored precision.
    """
    tensors = patch.state_dict(dtype) | (_embedding_tensors(patch) if embedding_keys else {})
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ForgetError(
                f"Expected finite factors, got NaN or infinity in {key}. Lower the learning rate or the strength."
            )
    return safetensors_bytes(tensors, patch.metadata())


def save_patch(patch: ForgetPatch, path: Path, dtype: torch.dtype = torch.float16) -> int:
    """Writes a patch's file, whole or not at all, see patch_bytes; returns its size in bytes."""
    return write_whole(patch_bytes(patch, dtype), path)


def _embedding_tensors(patch: ForgetPatch) -> dict[str, torch.Tensor]:
    found = {}
    for number, saved in enumerate(patch.concepts, 1):
        concept = concept_from_dict(saved)
        for encoder, vectors in (concept.embedding or {} if concept else {}).items():
            part = "string_to_param.*" if len(saved["embedding"]) == 1 else f"clip_{encoder}"
            found[f"bundle_emb.forgotten_{number}.{part}"] = vectors.contiguous()
    return found


def load_patch(path: Path) -> ForgetPatch:
    """Reads and checks a patch file.

    Accepts any LoRA with kohya-style UNet keys; the fmn.* metadata may be absent. Names, shapes and dtypes are checked before any
    tensor is read, so that a file cannot cost more than a few times its size. Raises ForgetError, with the reason, on a missing,
    truncated, pickled or foreign file, unknown key names, wrong shapes or dtypes, NaN or infinity.
    """
    with _opened(path) as f:
        metadata = f.metadata() or {}
        groups = _groups(list(f.keys()), path.name)
        for name, group in groups.items():
            _check_layer(name, {part: f.get_slice(key) for part, key in group.items()}, path.name)
        return _patch({name: _read(f, name, group, path.name) for name, group in groups.items()}, metadata)


def load_metadata(path: Path) -> ForgetPatch:
    """What a patch file says of itself, without its factors: for lists of many files.

    Raises ForgetError on a missing, pickled or broken file; names, shapes and numbers are not checked.
    """
    with _opened(path) as f:
        return _patch({}, f.metadata() or {})


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; raises ForgetError where it, or what is read of it, is broken."""
    from safetensors import SafetensorError, safe_open

    _check_kind(path)
    try:
        with safe_open(path, framework="pt") as f:
            yield f
    except ForgetError:
        raise
    except (SafetensorError, OSError, ValueError, OverflowError, RuntimeError, MemoryError) as error:
        raise ForgetError(
            f"Expected a safetensors file, but {path.name} is corrupt, cut short or of another format ({_short(error)})."
        ) from error


def _patch(factors: dict[str, Factors], metadata: dict[str, str]) -> ForgetPatch:
    return ForgetPatch(
        factors=factors,
        concepts=[c for c in _json(metadata, "fmn.concepts", []) if _is_concept(c)],
        base=_json(metadata, "fmn.base", {}),
        settings=_json(metadata, "fmn.settings", {}),
        figures=_json(metadata, "fmn.figures", {}),
        about=_about(metadata),
        tool=metadata.get("fmn.tool", "unknown"),
        parts=[p for p in _json(metadata, "fmn.parts", []) if isinstance(p, dict)],
    )


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_kind(path: Path) -> None:
    """Raises ForgetError when there is no file, or a pickle."""
    if not path.is_file():
        raise ForgetError(
            f"Expected a patch file, found none at {path.name}. Choose another file or train the patch first."
        )
    try:
        with path.open("rb") as f:
            head = f.read(9)
    except OSError as error:
        raise ForgetError(
            f"Expected a patch file that can be read, but {path.name} cannot: {_short(error)}."
        ) from error
    # A safetensors header can start with the same two bytes as a pickle: they are its length. Then a brace follows.
    if head[8:] != b"{" and (head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] <= b"\x05")):
        raise ForgetError(
            f"Expected a safetensors file, got a pickle in {path.name}, which can run code. It was not opened."
        )


def _about(metadata: dict[str, str]) -> dict[str, str]:
    said = _json(metadata, "fmn.about", {})
    found = {k: v for k, v in said.items() if k in ABOUT and isinstance(v, str)}
    return found | ({"preview": metadata[ABOUT["preview"]]} if ABOUT["preview"] in metadata else {})


def _is_concept(value: Any) -> bool:
    """Whether an entry of a stranger's metadata has the form that this tool writes."""
    if not isinstance(value, dict) or "phrases" not in value or not isinstance(value.get("embedding", {}), dict):
        return False
    lists = [value.get(k, []) for k in ("phrases", "templates", "contexts")]
    words = isinstance(value.get("kind", ""), str) and isinstance(value.get("corrects", ""), str)
    return words and value.get("kind", "object") in KINDS and all(_is_words(found) for found in lists)


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, str) for x in value)


def _json(metadata: dict[str, str], key: str, default):
    try:
        value = json.loads(metadata.get(key, ""))
    except (json.JSONDecodeError, RecursionError):
        return default
    return value if isinstance(value, type(default)) else default


def _groups(keys: list[str], file: str) -> dict[str, dict[str, str]]:
    """The keys of a file by layer and part; raises ForgetError on names that no patch has."""
    if len(keys) > MOST_TENSORS:
        raise ForgetError(
            f"Expected at most {MOST_TENSORS} tensors in {file}, got {len(keys)}. This is not a forget patch."
        )
    groups: dict[str, dict[str, str]] = {}
    # What an embedding in the file means is in the metadata too, which this tool reads.
    for key in (k for k in keys if not _EMBEDDING.fullmatch(k)):
        match = _KEY.fullmatch(key) if len(key) <= LONGEST_NAME else None
        if match is None:
            raise ForgetError(
                f"Expected only kohya-style UNet LoRA keys in {file}, got {key[:120]!r}. This is not a forget patch."
            )
        groups.setdefault(match[1], {})[match[2]] = key
    if not groups:
        raise ForgetError(f"Expected LoRA factors in {file}, got an empty file. Train the patch again.")
    return groups


def _check_layer(name: str, group: dict[str, Any], file: str) -> None:
    """Raises ForgetError on shapes and dtypes that are not a layer's factors; `group`: what the header says of each part."""
    for part, info in group.items():
        if info.get_dtype() not in _DTYPES:
            raise ForgetError(f"Expected floating-point factors in {file}, got {info.get_dtype()} in '{name}.{part}'.")
    if "lora_up.weight" not in group or "lora_down.weight" not in group:
        raise ForgetError(
            f"Expected lora_up and lora_down for {name} in {file}, one is missing. The file is incomplete."
        )
    up, down = (list(group[part].get_shape()) for part in ("lora_up.weight", "lora_down.weight"))
    fits = len(up) in (2, 4) and len(down) == len(up) and up[1] == down[0] and up[2:] in ([], [1, 1])
    if not fits or 0 in up or 0 in down:
        raise ForgetError(f"Expected factors (out, rank) and (rank, in) for {name} in {file}, got {up} and {down}.")
    shape = list(group["alpha"].get_shape()) if "alpha" in group else []
    if any(n != 1 for n in shape):
        raise ForgetError(f"Expected one number as alpha of {name} in {file}, got {shape}.")


def _read(f: Any, name: str, group: dict[str, str], file: str) -> Factors:
    tensors = {part: f.get_tensor(key) for part, key in group.items()}
    for part, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ForgetError(
                f"Expected finite factors in {file}, got NaN or infinity in '{name}.{part}'. Train the patch again."
            )
    up, down = tensors["lora_up.weight"], tensors["lora_down.weight"]
    alpha = float(tensors["alpha"].item()) if "alpha" in tensors else float(down.shape[0])
    largest = float(up.abs().max()) * float(down.abs().max()) * abs(alpha)
    if not largest < torch.finfo(torch.float32).max:
        raise ForgetError(
            f"Expected a finite change of {name} in {file}, got factors too large to multiply. Train it again."
        )
    return Factors(up, down, alpha)

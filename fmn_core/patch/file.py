"""The file of a patch: written whole or not at all, and checked, as a stranger's, before anything of it is used."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..concepts.concept import concept_from_dict
from ..concepts.file_fields import read_fingerprint
from ..errors import ForgetError, plain_text
from ..safetensors_file import HEAD_BYTES, refuse_pickle, safetensors_bytes, write_whole
from . import schema
from .patch import PREFIX, Factors, ForgetPatch, check_finite
from .size import largest_entry

# A whole SDXL UNet has some 800 layers of three tensors each.
MOST_TENSORS = 20_000
LONGEST_NAME = 300
# Bytes of names, shapes and metadata; parsing takes some 20 times as much memory. Lists read many files, and their page waits.
LONGEST_HEADER, LONGEST_LISTED = 16_000_000, 2_000_000
# The largest layer of any UNet has some 30 million; factors of a few megabytes can stand for far too many to multiply out.
MOST_WEIGHTS = 2**27
# A change that half precision, in which models compute, cannot hold is infinite there, and every picture black.
LARGEST_CHANGE = torch.finfo(torch.float16).max
# A trained alpha is of the order of the rank; far from it the patch does nothing, or destroys.
ALPHAS = (1e-6, 1e6)
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
        check_finite(key, tensor)
    size = len(patch.metadata()["fmn.concepts"])
    if size > schema.LONGEST_CONCEPTS:
        raise ForgetError(
            f"Expected concepts of at most {schema.LONGEST_CONCEPTS:,} characters of metadata, got {size:,}. Merge fewer patches into one file."
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
    with _opened(path, LONGEST_HEADER) as f:
        metadata = f.metadata() or {}
        groups = _groups(list(f.keys()), path.name)
        for name, group in groups.items():
            _check_layer(name, {part: f.get_slice(key) for part, key in group.items()}, path.name)
        return _patch({name: _read(f, name, group, path.name) for name, group in groups.items()}, metadata)


def load_metadata(path: Path) -> ForgetPatch:
    """What a patch file says of itself, without its factors: for lists of many files.

    Raises ForgetError on a missing, pickled or broken file and on a header above LONGEST_LISTED; names, shapes and numbers are not checked.
    """
    with _opened(path, LONGEST_LISTED) as f:
        return _patch({}, f.metadata() or {})


@contextlib.contextmanager
def _opened(path: Path, longest_header: int) -> Iterator[Any]:
    """A safetensors file; raises ForgetError where it, or what is read of it, is broken, and on a longer header, which is not parsed."""
    from safetensors import SafetensorError, safe_open

    _check_kind(path, longest_header)
    try:
        with safe_open(path, framework="pt") as f:
            yield f
    except ForgetError:
        raise
    except (SafetensorError, OSError, ValueError, OverflowError, RuntimeError, MemoryError) as error:
        raise ForgetError(
            f"Expected a safetensors file, but {path.name} is corrupt, cut short or of another format ({plain_text(error, 200)})."
        ) from error


def _patch(factors: dict[str, Factors], metadata: dict[str, str]) -> ForgetPatch:
    """What a file holds; metadata of another form than this tool writes counts as absent, see schema."""

    def said(field: str) -> str:
        return metadata.get(f"fmn.{field}", "")

    return ForgetPatch(
        factors=factors,
        concepts=schema.read_concepts(said("concepts")),
        base=read_fingerprint(said("base")),
        settings=schema.read_settings(said("settings")),
        figures=schema.read_figures(said("figures")),
        about=schema.read_about(metadata),
        tool=plain_text(said("tool") or "unknown", 200),
        parts=schema.read_parts(said("parts")),
    )


def _check_kind(path: Path, longest_header: int) -> None:
    """Raises ForgetError when there is no file, or a pickle, or a header that would cost too much to parse."""
    if not path.is_file():
        raise ForgetError(
            f"Expected a patch file, found none at {path.name}. Choose another file or train the patch first."
        )
    try:
        with path.open("rb") as f:
            head, size = f.read(HEAD_BYTES), os.fstat(f.fileno()).st_size
    except OSError as error:
        raise ForgetError(
            f"Expected a patch file that can be read, but {path.name} cannot: {plain_text(error, 200)}."
        ) from error
    refuse_pickle(path.name, head)
    header = int.from_bytes(head[:8], "little")
    if longest_header < header <= size:
        raise ForgetError(
            f"Expected at most {longest_header:,} bytes of names and metadata in {path.name}, got {header:,}. This is not a forget patch."
        )


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
    if up[0] * math.prod(down[1:]) > MOST_WEIGHTS:
        raise ForgetError(
            f"Expected layers of at most {MOST_WEIGHTS:,} weights, got {up[0]} x {math.prod(down[1:])} for {name} in {file}. This is no patch for a UNet."
        )
    shape = list(group["alpha"].get_shape()) if "alpha" in group else []
    if any(n != 1 for n in shape):
        raise ForgetError(f"Expected one number as alpha of {name} in {file}, got {shape}.")


def _read(f: Any, name: str, group: dict[str, str], file: str) -> Factors:
    """One layer's factors, in their stored precision; raises ForgetError on numbers that a model cannot compute with."""
    tensors = {part: f.get_tensor(key) for part, key in group.items()}
    for part, tensor in tensors.items():
        single = tensor.float()
        if not torch.isfinite(single).all() or (tensor.any() and not single.any()):
            raise ForgetError(
                f"Expected finite factors in {file}, got NaN or infinity in '{name}.{part}', read in single precision. Train the patch again."
            )
    up, down = tensors["lora_up.weight"], tensors["lora_down.weight"]
    alpha = float(tensors["alpha"].item()) if "alpha" in tensors else float(down.shape[0])
    if not ALPHAS[0] <= abs(alpha) <= ALPHAS[1]:
        raise ForgetError(
            f"Expected an alpha of {ALPHAS[0]:g} to {ALPHAS[1]:g} for {name} in {file}, got {alpha:.4g}. Train the patch again."
        )
    factors = Factors(up, down, alpha)
    if not largest_entry(factors, LARGEST_CHANGE) <= LARGEST_CHANGE:
        raise ForgetError(
            f"Expected a change of {name} in {file} that half precision holds, up to {LARGEST_CHANGE:,.0f}, got a larger one. Train the patch again."
        )
    return factors

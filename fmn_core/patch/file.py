"""Patch files: writing them whole or not at all, and reading them with checks, as files from strangers."""

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
# Bytes of names, shapes and metadata; parsing takes some 20 times as much memory. The second limit is for lists, which read many files.
LONGEST_HEADER, LONGEST_LISTED = 16_000_000, 2_000_000
# The largest layer of any UNet has some 30 million; factors of a few megabytes can stand for far too many to multiply out.
MOST_WEIGHTS = 2**27
# A larger change is infinite in half precision, in which models compute, and makes every picture black.
LARGEST_CHANGE = torch.finfo(torch.float16).max
# A trained alpha is of the order of the rank; far from it the patch does nothing, or destroys.
ALPHAS = (1e-6, 1e6)
_KEY = re.compile(rf"({PREFIX}[a-z0-9_]+)\.(lora_up\.weight|lora_down\.weight|alpha)")
_EMBEDDING = re.compile(r"bundle_emb\.[\w.+-]{1,200}\.(string_to_param\.\*|clip_[lgh])")
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def patch_bytes(patch: ForgetPatch, dtype: torch.dtype = torch.float16, embedding_keys: bool = False) -> bytes:
    """The content of a patch's file.

    Parameters
    ----------
    patch
        The patch, whose metadata already holds its learned embeddings.
    dtype
        Precision of the factors.
    embedding_keys
        Also stores learned embeddings as `bundle_emb.*` tensors, where ComfyUI and A1111 find an embedding in a LoRA file. diffusers
        refuses files with such tensors.

    Raises
    ------
    ForgetError
        Where a factor is not finite in the stored precision, and where the concepts' metadata is longer than a file may hold.
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
    """Writes a patch's file, whole or not at all, and returns its size in bytes; raises as patch_bytes does."""
    return write_whole(patch_bytes(patch, dtype), path)


def _embedding_tensors(patch: ForgetPatch) -> dict[str, torch.Tensor]:
    tensors = {}
    for number, record in enumerate(patch.concepts, 1):
        concept = concept_from_dict(record)
        for encoder, vectors in (concept.embedding or {} if concept else {}).items():
            suffix = "string_to_param.*" if len(record["embedding"]) == 1 else f"clip_{encoder}"
            tensors[f"bundle_emb.forgotten_{number}.{suffix}"] = vectors.contiguous()
    return tensors


def load_patch(path: Path) -> ForgetPatch:
    """Reads and checks a patch file: any LoRA with kohya-style UNet keys, with or without `fmn.*` metadata.

    Names, shapes and dtypes are checked before any tensor is read, so that no file takes more than a few times its size in memory.

    Raises
    ------
    ForgetError
        On a missing, truncated, pickled or foreign file, unknown key names, wrong shapes or dtypes, and NaN or infinity. It says which.
    """
    with _open_safetensors(path, LONGEST_HEADER) as f:
        metadata = f.metadata() or {}
        groups = _group_keys(list(f.keys()), path.name)
        for name, group in groups.items():
            _check_layer(name, {part: f.get_slice(key) for part, key in group.items()}, path.name)
        factors = {name: _read_factors(f, name, group, path.name) for name, group in groups.items()}
        return _build_patch(factors, metadata)


def load_metadata(path: Path) -> ForgetPatch:
    """Reads the metadata of a patch file, for lists of many files.

    Returns
    -------
    A patch without factors. Names, shapes and numbers of the tensors are not checked.

    Raises
    ------
    ForgetError
        On a missing, pickled or broken file, and on a header of more than LONGEST_LISTED bytes.
    """
    with _open_safetensors(path, LONGEST_LISTED) as f:
        return _build_patch({}, f.metadata() or {})


@contextlib.contextmanager
def _open_safetensors(path: Path, longest_header: int) -> Iterator[Any]:
    """Opens a file; raises ForgetError where it is broken, also where that shows only while tensors are read."""
    from safetensors import SafetensorError, safe_open

    _check_head(path, longest_header)
    try:
        with safe_open(path, framework="pt") as f:
            yield f
    except ForgetError:
        raise
    except (SafetensorError, OSError, ValueError, OverflowError, RuntimeError, MemoryError) as error:
        raise ForgetError(
            f"Expected a safetensors file, but {path.name} is corrupt, cut short or of another format ({plain_text(error, 200)})."
        ) from error


def _build_patch(factors: dict[str, Factors], metadata: dict[str, str]) -> ForgetPatch:
    """Joins factors and metadata; malformed metadata counts as absent, see schema."""

    def text_of(field: str) -> str:
        return metadata.get(f"fmn.{field}", "")

    return ForgetPatch(
        factors=factors,
        concepts=schema.read_concepts(text_of("concepts")),
        base=read_fingerprint(text_of("base")),
        settings=schema.read_settings(text_of("settings")),
        figures=schema.read_figures(text_of("figures")),
        about=schema.read_about(metadata),
        tool=plain_text(text_of("tool") or "unknown", 200),
        parts=schema.read_parts(text_of("parts")),
    )


def _check_head(path: Path, longest_header: int) -> None:
    """Raises ForgetError on a missing or unreadable file, a pickle, and a header that would take too much memory to parse."""
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


def _group_keys(keys: list[str], file: str) -> dict[str, dict[str, str]]:
    """The keys of a file by layer and tensor; raises ForgetError on names that no patch has."""
    if len(keys) > MOST_TENSORS:
        raise ForgetError(
            f"Expected at most {MOST_TENSORS} tensors in {file}, got {len(keys)}. This is not a forget patch."
        )
    groups: dict[str, dict[str, str]] = {}
    # Embeddings are skipped: the metadata holds them too.
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
    """Raises ForgetError unless the shapes and dtypes of the slices in `group` are those of a layer's factors."""
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


def _read_factors(f: Any, name: str, group: dict[str, str], file: str) -> Factors:
    """Reads one layer's factors in their stored precision; raises ForgetError on numbers that a model cannot compute with."""
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

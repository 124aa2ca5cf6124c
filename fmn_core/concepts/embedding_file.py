"""Textual-inversion embeddings as files that a prompt names as `embedding:NAME`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import ForgetError, plain_text
from ..model.tokens import LearnedEmbedding
from ..safetensors_file import HEAD_BYTES, refuse_pickle, safetensors_bytes, write_whole
from .concept import MAX_PHRASE_TOKENS, check_word
from .file_fields import read_base
from .limits import LONGEST_PHRASE
from .templates import KINDS

FORMAT_VERSION = "1"
SUFFIX = ".safetensors"
# 75 vectors of the widest text encoders take less than 2 MB in double precision.
MOST_BYTES = 32_000_000
# One text encoder: the key that every tool reads; two: a key for each, as SDXL embeddings have them.
SINGLE_KEY = "emb_params"
ENCODER_KEYS = {"clip_l": "l", "clip_h": "h", "clip_g": "g"}
# Widths of Stable Diffusion 1, 2 and XL; smaller models have others.
KNOWN_WIDTHS = {"l": 768, "h": 1024, "g": 1280}
_FAMILIES = (("l",), ("h",), ("g",), ("g", "l"))
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
# A prompt ends an embedding's name at white space, and reads brackets and colons as weights.
_NAME = re.compile(r"[\w.+-]+")


@dataclass
class Embedding:
    """Vectors that mean a concept, and where they come from.

    `phrase`: what they were initialised from. `kind`: see templates.KINDS. `steps`: of the inversion. `base`: fingerprint
    of the model it was made on, JSON-serialisable.
    """

    word: LearnedEmbedding
    phrase: str = ""
    kind: str = "object"
    steps: int = 0
    base: dict[str, Any] = field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """File metadata, strings only."""
        base = self.base.get("architecture", "stable-diffusion")
        return {
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": f"{base}/textual-inversion",
            "modelspec.title": self.phrase or "An inverted concept",
            "fmn.version": FORMAT_VERSION,
            "fmn.phrase": self.phrase,
            "fmn.kind": self.kind,
            "fmn.steps": str(self.steps),
            "fmn.base": json.dumps(self.base, sort_keys=True),
        }


def embedding_bytes(embedding: Embedding, name: str) -> bytes:
    """The content of the file NAME.safetensors, in float32.

    One encoder is stored as `emb_params` (m, width), SDXL's two as `clip_l` and `clip_g`. Raises ForgetError when the
    vectors cannot be used (see load_embedding) or a prompt could not name the file.
    """
    check_embedding_name(name)
    _check_vectors(embedding.word, name)
    keys = {encoder: key for key, encoder in ENCODER_KEYS.items()}
    single = len(embedding.word) == 1
    tensors = {
        SINGLE_KEY if single else keys[encoder]: v.detach().to("cpu", torch.float32).contiguous()
        for encoder, v in embedding.word.items()
    }
    return safetensors_bytes(tensors, embedding.metadata())


def save_embedding(embedding: Embedding, path: Path) -> int:
    """Writes an embedding's file, whole or not at all, see embedding_bytes; returns its size in bytes."""
    return write_whole(embedding_bytes(embedding, path.name), path)


def check_embedding_name(name: str) -> None:
    """Raises ForgetError on a file name that is not NAME.safetensors with a NAME that a prompt can say."""
    if not name.endswith(SUFFIX) or not _NAME.fullmatch(name.removesuffix(SUFFIX)):
        raise ForgetError(
            f"Expected NAME{SUFFIX} with letters, digits and . _ + - in the name, got {name!r}. "
            "Choose another name, so that a prompt can say embedding:NAME."
        )


def load_embedding(path: Path, widths: dict[str, int] | None = None) -> Embedding:
    """Reads and checks an embedding file, of this pack or of other tools; vectors in float32 on the CPU.

    Keys: `clip_l`, `clip_h`, `clip_g`, or a single tensor under any name (A1111's `emb_params`, diffusers' token), whose
    encoder is told by its width. `widths`: the embedding width of each of a model's text encoders, where it is known.
    Raises ForgetError, with the reason, on a missing, truncated, pickled or foreign file, on tensors that are not 1 to 75
    finite vectors for each encoder, and on vectors of another model.
    """
    tensors, metadata = _read(path)
    word = _word(tensors, widths, path.name)
    _check_vectors(word, path.name, widths)
    return Embedding(
        {encoder: v.float() for encoder, v in word.items()},
        phrase=plain_text(metadata.get("fmn.phrase", ""), LONGEST_PHRASE),
        kind=metadata["fmn.kind"] if metadata.get("fmn.kind") in KINDS else "object",
        steps=_count(metadata.get("fmn.steps", "")),
        base=read_base(metadata.get("fmn.base", "")),
    )


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ForgetError(f"Expected an embedding file, found none at {path.name}. Choose another file.")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ForgetError(
            f"Expected an embedding of at most {MOST_BYTES // 10**6} MB, {path.name} has {size:,} bytes. Choose another file."
        )
    with path.open("rb") as file:
        refuse_pickle(path.name, file.read(HEAD_BYTES), _PICKLE_SUFFIXES)
    try:
        with safe_open(path, framework="pt") as f:
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 (safe_open is no dict)
            return tensors, f.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ForgetError(
            f"Expected a safetensors file, but {path.name} is corrupt, cut short or of another format ({error}). "
            "Choose another file."
        ) from error


def _word(tensors: dict[str, torch.Tensor], widths: dict[str, int] | None, file: str) -> LearnedEmbedding:
    if tensors and set(tensors) <= set(ENCODER_KEYS):
        return {ENCODER_KEYS[key]: v for key, v in sorted(tensors.items())}
    if len(tensors) != 1:
        raise ForgetError(
            f"Expected {SINGLE_KEY}, or {', '.join(ENCODER_KEYS)}, in {file}, got {len(tensors)} tensors "
            f"({', '.join(sorted(tensors)[:3]) or 'none'}). This is not a textual-inversion embedding; choose another file."
        )
    vectors = next(iter(tensors.values()))
    if widths is not None and len(widths) == 1:
        return {next(iter(widths)): vectors}
    by_width = {width: encoder for encoder, width in KNOWN_WIDTHS.items()}
    return {by_width.get(vectors.shape[-1] if vectors.ndim else 0, "l"): vectors}


def _check_vectors(word: LearnedEmbedding, file: str, widths: dict[str, int] | None = None) -> None:
    """Raises ForgetError, naming the file, on vectors that no text encoder, or not the one of these widths, can take."""
    if tuple(sorted(word)) not in _FAMILIES:
        raise ForgetError(
            f"Expected vectors for the text encoders l, h, g or l and g in {file}, got {', '.join(sorted(word)) or 'none'}. "
            "Choose an embedding for Stable Diffusion 1.x, 2.x or XL."
        )
    for encoder, v in word.items():
        if v.dtype not in _FLOATS:
            raise ForgetError(f"Expected floating-point vectors in {file}, got {v.dtype}. Choose another file.")
        if v.ndim != 2 or not 1 <= len(v) <= MAX_PHRASE_TOKENS or v.shape[1] == 0:
            raise ForgetError(
                f"Expected 1 to {MAX_PHRASE_TOKENS} vectors, as (vectors, width), for encoder {encoder} in {file}, "
                f"got shape {list(v.shape)}. Choose another embedding."
            )
        if widths is None and v.shape[1] != KNOWN_WIDTHS[encoder] and v.shape[1] in KNOWN_WIDTHS.values():
            raise ForgetError(
                f"Expected vectors of width {KNOWN_WIDTHS[encoder]} for encoder {encoder} in {file}, got {v.shape[1]}. "
                "Choose another embedding."
            )
    if widths is None:
        widths = {encoder: v.shape[1] for encoder, v in word.items()}
    try:
        check_word(word, widths)
    except ForgetError as error:
        raise ForgetError(f"{file}: {error}") from error


def _count(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0

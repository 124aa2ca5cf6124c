"""Files of learned embeddings (textual inversion), which a prompt names as `embedding:NAME`."""

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
from .concept import MAX_PHRASE_TOKENS, check_embedding
from .file_fields import read_fingerprint
from .limits import LONGEST_PHRASE
from .templates import KINDS

FORMAT_VERSION = "1"
SUFFIX = ".safetensors"
# 75 vectors of the widest text encoders take less than 2 MB in double precision.
MOST_BYTES = 32_000_000
# The key of an embedding for one text encoder, which every tool reads, and the keys of those for several, one for each encoder.
SINGLE_KEY = "emb_params"
ENCODER_KEYS = {"clip_l": "l", "clip_h": "h", "clip_g": "g", "t5xxl": "t5xxl"}
# Widths of Stable Diffusion and FLUX.1; smaller models have others.
KNOWN_WIDTHS = {"l": 768, "h": 1024, "g": 1280, "t5xxl": 4096}
_FAMILIES = (("l",), ("h",), ("g",), ("g", "l"), ("l", "t5xxl"), ("g", "l", "t5xxl"))
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
# A prompt ends an embedding's name at white space, and reads brackets and colons as weights.
_NAME = re.compile(r"[\w.+-]+")


@dataclass
class Embedding:
    """A learned embedding with the metadata of its file.

    Attributes
    ----------
    vectors
        The learned embedding: (m, width) per text encoder, m from 1 to MAX_PHRASE_TOKENS.
    phrase
        The words that the inversion started from.
    kind
        One of templates.KINDS.
    steps
        Steps of the inversion.
    base
        Fingerprint of the model that it was learned on, as JSON; see patch.patch.fingerprint.
    """

    vectors: LearnedEmbedding
    phrase: str = ""
    kind: str = "object"
    steps: int = 0
    base: dict[str, Any] = field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """The metadata of the file: `modelspec.*` for other tools, `fmn.*` for this one."""
        architecture = self.base.get("architecture", "stable-diffusion")
        return {
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": f"{architecture}/textual-inversion",
            "modelspec.title": self.phrase or "An inverted concept",
            "fmn.version": FORMAT_VERSION,
            "fmn.phrase": self.phrase,
            "fmn.kind": self.kind,
            "fmn.steps": str(self.steps),
            "fmn.base": json.dumps(self.base, sort_keys=True),
        }


def embedding_bytes(embedding: Embedding, name: str) -> bytes:
    """The content of the file `name`, in float32.

    Vectors of one encoder are stored as `emb_params` (m, width), those of several as `clip_l`, `clip_g` and `t5xxl`.

    Raises
    ------
    ForgetError
        On vectors that load_embedding would refuse, and on a file name that a prompt cannot contain.
    """
    check_embedding_name(name)
    _check_vectors(embedding.vectors, name)
    keys = {encoder: key for key, encoder in ENCODER_KEYS.items()}
    single = len(embedding.vectors) == 1
    tensors = {
        SINGLE_KEY if single else keys[encoder]: v.detach().to("cpu", torch.float32).contiguous()
        for encoder, v in embedding.vectors.items()
    }
    return safetensors_bytes(tensors, embedding.metadata())


def save_embedding(embedding: Embedding, path: Path) -> int:
    """Writes an embedding's file, whole or not at all, and returns its size in bytes; raises as embedding_bytes does."""
    return write_whole(embedding_bytes(embedding, path.name), path)


def check_embedding_name(name: str) -> None:
    """Raises ForgetError unless a file name is NAME.safetensors and a prompt can contain `embedding:NAME`."""
    if not name.endswith(SUFFIX) or not _NAME.fullmatch(name.removesuffix(SUFFIX)):
        raise ForgetError(
            f"Expected NAME{SUFFIX} with letters, digits and . _ + - in the name, got {name!r}. "
            "Choose another name, so that a prompt can say embedding:NAME."
        )


def load_embedding(path: Path, widths: dict[str, int] | None = None) -> Embedding:
    """Reads and checks an embedding file of this pack or of another tool.

    Parameters
    ----------
    path
        A safetensors file with the keys `clip_l`, `clip_h`, `clip_g` or `t5xxl`, or with a single tensor under any name (A1111's
        `emb_params`, diffusers' token), whose width tells its text encoder.
    widths
        Embedding width of each text encoder of the model at hand; None where no model is known.

    Returns
    -------
    The embedding, its vectors in float32 on the CPU.

    Raises
    ------
    ForgetError
        On a missing, truncated, pickled or foreign file, on tensors that are not 1 to MAX_PHRASE_TOKENS finite vectors for each encoder,
        and on vectors for another model.
    """
    tensors, metadata = _read_tensors(path)
    vectors = _vectors_by_encoder(tensors, widths, path.name)
    _check_vectors(vectors, path.name, widths)
    return Embedding(
        {encoder: v.float() for encoder, v in vectors.items()},
        phrase=plain_text(metadata.get("fmn.phrase", ""), LONGEST_PHRASE),
        kind=metadata["fmn.kind"] if metadata.get("fmn.kind") in KINDS else "object",
        steps=_parse_steps(metadata.get("fmn.steps", "")),
        base=read_fingerprint(metadata.get("fmn.base", "")),
    )


def _read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
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


def _vectors_by_encoder(tensors: dict[str, torch.Tensor], widths: dict[str, int] | None, file: str) -> LearnedEmbedding:
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
    encoder_of_width = {width: encoder for encoder, width in KNOWN_WIDTHS.items()}
    return {encoder_of_width.get(vectors.shape[-1] if vectors.ndim else 0, "l"): vectors}


def _check_vectors(vectors: LearnedEmbedding, file: str, widths: dict[str, int] | None = None) -> None:
    """Raises ForgetError, naming the file, on vectors that do not fit the text encoders of the given or of known widths."""
    if tuple(sorted(vectors)) not in _FAMILIES:
        raise ForgetError(
            f"Expected vectors for the text encoders l, h, g, l and g, or these with t5xxl in {file}, got {', '.join(sorted(vectors)) or 'none'}. "
            "Choose an embedding for Stable Diffusion or FLUX.1."
        )
    for encoder, v in vectors.items():
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
        widths = {encoder: v.shape[1] for encoder, v in vectors.items()}
    try:
        check_embedding(vectors, widths)
    except ForgetError as error:
        raise ForgetError(f"{file}: {error}") from error


def _parse_steps(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0

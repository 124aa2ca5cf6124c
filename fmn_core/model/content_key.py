"""Content keys: hashes that tell tensors, settings, models and text encoders apart by their content."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from typing import Any

import torch

from ..errors import ForgetError
from .protocol import ForgetModel, TextModel
from .token_table import row_checksums

PROBE_PROMPT = "a picture of a horse in watercolor style"
_PROBE_LATENT = 16


def content_key(*content: Any) -> str:
    """Hashes values by their content.

    Parameters
    ----------
    content
        Tensors, strings, bytes, numbers, None, and nested lists, tuples and dicts of them.

    Returns
    -------
    SHA-256 as 64 hexadecimal digits.

    Raises
    ------
    ForgetError
        On a value of any other type.

    Notes
    -----
    Every value is hashed with its kind and length, so that different inputs never give the same bytes. A list equals a tuple of
    the same items, and the order of a dict does not count. A tensor counts by its dtype, shape and bytes, not by its device.
    """
    digest = hashlib.sha256()
    _write(digest, content)
    return digest.hexdigest()


def _write(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        _frame(digest, b"tensor", str(value.dtype).encode())
        _write(digest, list(value.shape))
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        _frame(digest, b"data", data.numpy().data)
    elif isinstance(value, (list, tuple)):
        _frame(digest, b"list", struct.pack("<Q", len(value)))
        for item in value:
            _write(digest, item)
    elif isinstance(value, dict):
        _frame(digest, b"dict", struct.pack("<Q", len(value)))
        for _, item in sorted((content_key(k), (k, v)) for k, v in value.items()):
            _write(digest, item)
    else:
        _frame(digest, *_scalar(value))


def _scalar(value: Any) -> tuple[bytes, bytes]:
    """The kind of a plain value and its bytes."""
    if value is None:
        return b"none", b""
    if isinstance(value, str):
        return b"str", value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"bytes", value
    if isinstance(value, (bool, int)):
        return type(value).__name__.encode(), str(int(value)).encode()
    if isinstance(value, float):
        return b"float", struct.pack("<d", value)
    raise ForgetError(
        f"Expected tensors, strings, numbers, lists or dicts to make a key of, got {type(value).__name__}. Pass its content instead."
    )


def _frame(digest: Any, kind: bytes, data: bytes | memoryview) -> None:
    digest.update(struct.pack("<QQ", len(kind), len(data)) + kind)
    digest.update(data)


def model_key(model: ForgetModel) -> str:
    """Content key of a model's predictions: a LoRA or a fine-tune changes it.

    Parameters
    ----------
    model
        A model that is ready for `denoise`.

    Notes
    -----
    Hashes the predictions, rounded to 3 significant digits, of one `denoise` call on seeded noise (C, 16, 16) at the middle
    sigma, for the empty prompt, a fixed prompt, and noise in place of a prompt: a patch may leave ordinary prompts alone, but
    not noise. The sigmas and the shapes of the cross-attention keys count too. The key is comparable on one machine and
    device only.
    """
    sigmas = model.sigmas()
    sigma = sigmas[len(sigmas) // 2]
    generator = torch.Generator().manual_seed(0)
    noise = (
        torch.randn(1, model.latent_shape()[0], _PROBE_LATENT, _PROBE_LATENT, generator=generator)
        * (1 + sigma**2).sqrt()
    )
    empty, prompt = model.encode(["", PROBE_PROMPT])
    context = torch.randn(prompt.context.shape, generator=generator) * prompt.context.std() + prompt.context.mean()
    prompts = [empty, prompt, replace(prompt, text="", context=context)]
    with torch.no_grad():
        x = noise.expand(len(prompts), -1, -1, -1).to(model.device)
        x0 = model.denoise(x, sigma.expand(len(prompts)).to(model.device), prompts)
    keys: list[Any] = [layer.projections["to_k"] for layer in model.cross_attention()]
    return content_key("model", _rounded(x0), sigmas, [list(k.weight.shape) for k in keys])


def text_key(model: TextModel) -> str:
    """Content key of a model's text encoders: a LoRA, a fine-tune or another CLIP skip changes it.

    Notes
    -----
    Hashes the context and the pooled embedding of a fixed prompt, rounded to 3 significant digits, and a checksum of every
    row of the token embeddings, because a change of one word's embedding shows in no other prompt.
    """
    [encoded] = model.encode([PROBE_PROMPT])
    pooled = None if encoded.pooled is None else _rounded(encoded.pooled)
    rows = {name: row_checksums(table) for name, table in model.token_embeddings().items()}
    return content_key("text", encoded.tokens, _rounded(encoded.context), pooled, rows)


def _rounded(tensor: torch.Tensor) -> str:
    """The numbers of a tensor as text, with 3 significant digits. Adding 0.0 turns -0.0 into 0.0."""
    numbers = tensor.detach().float().cpu().flatten().tolist()
    return " ".join(f"{number + 0.0:.3g}" for number in numbers)

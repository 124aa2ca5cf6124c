"""Mutations of a valid patch file, as an attacker, a broken disk or a broken download could produce them."""

from __future__ import annotations

import json
import random

import torch
from safetensors.torch import save

from fmn_core.patch.patch import Factors, ForgetPatch
from tools import hostile_layers, hostile_metadata

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v"
KINDS = (
    "flip",
    "cut",
    "insert",
    "zeros",
    "header length",
    "header text",
    "offsets",
    "shape",
    "dtype",
    "keys",
    "values",
    *hostile_metadata.KINDS,
    *hostile_layers.KINDS,
)


def good_patch(layers: int = 3) -> ForgetPatch:
    """A valid patch with seeded factors, (24, 4) and (4, 16), for each layer."""
    generator = torch.Generator().manual_seed(0)
    factors = {
        LAYER.replace("_0_attn2", f"_{n}_attn2"): Factors(
            torch.randn(24, 4, generator=generator), torch.randn(4, 16, generator=generator), 4.0
        )
        for n in range(layers)
    }
    base = {"architecture": "unet-3x16", "shapes": [[24, 16]] * layers, "norms": [1.5] * layers}
    return ForgetPatch(factors, [{"phrases": ["zebra"], "kind": "object"}], base, {"rank": 4}, {"rank": 4})


def good_file() -> bytes:
    """The content of a valid patch file."""
    patch = good_patch()
    return save(patch.state_dict(), patch.metadata())


def split_file(data: bytes) -> tuple[dict, bytes]:
    """Header and tensor data of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join_file(header: dict | bytes, body: bytes) -> bytes:
    """A safetensors file of a header, which may be raw bytes, and tensor data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def mutate(data: bytes, kind: str, seed: int) -> bytes:
    """Mutates a valid file. The same kind and seed give the same mutation."""
    rng = random.Random(f"{kind} {seed}")
    raw = bytearray(data)
    position = rng.randrange(len(raw))
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 4, 64))):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del raw[position:]
    elif kind == "insert":
        raw[position:position] = rng.randbytes(rng.choice((1, 8, 1000)))
    elif kind == "zeros":
        raw[position : position + rng.choice((8, 200, 4000))] = bytes(rng.choice((8, 200, 4000)))
    elif kind == "header length":
        raw[:8] = rng.choice((0, 1, 2**31, 2**63 - 1, 2**64 - 1, len(raw), rng.randrange(2**64))).to_bytes(8, "little")
    elif kind in hostile_metadata.KINDS:
        header, body = split_file(data)
        return join_file(hostile_metadata.mutate(header, kind, rng), body)
    elif kind in hostile_layers.KINDS:
        return hostile_layers.mutate(data, split_file(data)[0]["__metadata__"], kind, rng)
    else:
        return _mutate_header(data, kind, rng)
    return bytes(raw)


def _mutate_header(data: bytes, kind: str, rng: random.Random) -> bytes:
    header, body = split_file(data)
    keys = [k for k in header if k != "__metadata__"]
    key = rng.choice(keys)
    if kind == "header text":
        text = bytearray(json.dumps(header).encode())
        position = rng.randrange(len(text))
        text[position : position + rng.choice((0, 1, 9))] = rng.choice(
            (b"\xff\xfe", b"{", b"}", b'"', b"[[[[", b"null", b"1e999", b"-1")
        )
        return join_file(bytes(text), body)
    if kind == "offsets":
        start, end = header[key]["data_offsets"]
        header[key]["data_offsets"] = rng.choice(
            (
                [start, end + 2**40],
                [end, start],
                [-1, end],
                [start],
                [0, len(body)],
                header[rng.choice(keys)]["data_offsets"],
                [2**64, 2**65],
            )
        )
    elif kind == "shape":
        header[key]["shape"] = rng.choice(
            ([], [0], [2**62, 4], [-1, 4], [4, 16, 1, 1], [1] * 5000, [8, 12], "x", [1.5])
        )
    elif kind == "dtype":
        header[key]["dtype"] = rng.choice(("F8_E4M3", "BOOL", "I64", "F64", "U8", "F32", "", "X" * 1000, None))
    elif kind == "keys":
        new_key = rng.choice(
            ("x", "../../etc/passwd", key + "\n", "lora_unet_" + "a" * 10**5 + ".alpha", "", "\u202e", key.upper())
        )
        header[new_key] = header.pop(key)
    else:
        return join_file(header, _mutate_numbers(header[key], body, rng))
    return join_file(header, body)


def _mutate_numbers(entry: dict, body: bytes, rng: random.Random) -> bytes:
    """Puts NaN, infinity or half precision's largest number into a random place of a tensor."""
    start, end = entry["data_offsets"]
    width = {"F16": 2, "F32": 4}[entry["dtype"]]
    value = rng.choice((float("nan"), float("inf"), float("-inf"), 65504.0))
    packed = torch.tensor(value, dtype={2: torch.float16, 4: torch.float32}[width]).numpy().tobytes()
    position = start + width * rng.randrange((end - start) // width)
    return body[:position] + packed + body[position + width :]

"""Mutations of a patch's metadata: values of other types, long lists, lone surrogates, deeply nested JSON, odd templates."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

KINDS = ("metadata tree", "long lists", "surrogates", "deep JSON", "templates")
FIELDS = ("concepts", "base", "settings", "figures", "about", "parts")
SURROGATES = ("\ud800", "zebra\udfff", "\x1b[2J", "\u202egpj", "zebra\nmatched 16 of 16 layers", "a\u2028b", "\0")
VALUES = (
    None,
    True,
    -1,
    0,
    2**70,
    1e30,
    float("nan"),
    float("inf"),
    "",
    "x" * 10_000,
    [],
    {},
    [[]],
    {"a": {"b": []}},
    ["x", 1, None],
)
TEMPLATES = (
    "{:3000000000} {}",
    "{x} {}",
    "{0.__class__} {}",
    "a photo",
    "{} and {}",
    "{}" + "x" * 100_000,
    "}{",
    "{{}}",
)


def mutate(header: dict, kind: str, rng: random.Random) -> dict:
    """Changes some of the metadata in a safetensors header."""
    metadata = header["__metadata__"]
    field = rng.choice(FIELDS)
    key = f"fmn.{field}"
    if kind == "deep JSON":
        depth = rng.choice((5, 9, 100, 10_000, 300_000))
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        metadata[key] = opening * depth + rng.choice(("", "1")) + closing * rng.choice((depth, depth - 1))
        return header
    tree = json.loads(metadata.get(key, "{}"))
    if kind == "long lists":
        tree = _long_lists(field, rng)
    elif kind == "templates":
        key, tree = "fmn.concepts", [{"phrases": ["zebra"], "kind": "object", "templates": [rng.choice(TEMPLATES)]}]
    else:
        replacements = SURROGATES if kind == "surrogates" else VALUES
        for _ in range(rng.choice((1, 1, 3))):
            tree = _replace_somewhere(tree, rng.choice(replacements), rng)
    metadata[key] = json.dumps(tree)
    return header


def _replace_somewhere(tree: Any, value: Any, rng: random.Random) -> Any:
    """Puts a value into a random place of a JSON tree, at any depth."""
    if not isinstance(tree, (dict, list)) or not tree or rng.random() < 0.2:
        return copy.deepcopy(value)
    key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
    tree[key] = _replace_somewhere(tree[key], value, rng)
    return tree


def _long_lists(field: str, rng: random.Random) -> Any:
    """A value of a metadata field with far more items or characters than any patch has."""
    count = rng.choice((101, 1001, 5001, 50_000, 400_000))
    if field == "concepts":
        words = [str(n) for n in range(count)]
        return rng.choice(([{"phrases": words}], [{"phrases": [w]} for w in words], [{"phrases": ["zebra " * count]}]))
    if field == "base":
        return {"architecture": "x" * count, "shapes": [[1, 1]] * count, "norms": [1.0] * count}
    if field == "parts":
        return [{"concepts": 1, "ranks": {str(n): 1 for n in range(min(count, 5001))}}] * max(1, count // 5001)
    return {"losses": [1.0] * count, "preserve_prompts": ["horse"] * count, "notes": "x" * count}

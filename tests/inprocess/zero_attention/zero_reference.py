"""An independent zero attention: every attn2 layer of a MODEL by brute force in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Stage:
    """One node's doing: `prompts` pairs a conditioning (L, dim) with its columns; others are left alone."""

    prompts: list[tuple[torch.Tensor, list[int]]]
    strength: float = 1.0
    renormalise: bool = False
    mask: torch.Tensor | None = None
    tops: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    places: tuple[str, ...] = ("input", "middle", "output")
    percents: tuple[float, float] = (0.0, 1.0)

    def active(self, extra_options: dict[str, Any], all_sigmas: torch.Tensor) -> bool:
        """Percent 0 is the last timestep of training, percent 1 the first."""
        timestep = (all_sigmas - extra_options["sigmas"].max()).abs().argmin()
        percent = 1 - float(timestep) / (len(all_sigmas) - 1)
        return extra_options["block"][0] in self.places and self.percents[0] <= percent <= self.percents[1]

    def columns(self, row: torch.Tensor) -> list[int]:
        for context, columns in self.prompts:
            repeats, rest = divmod(len(row), len(context))
            if rest == 0 and torch.allclose(row, context.repeat(repeats, 1), atol=1e-5):
                return [c + r * len(context) for r in range(repeats) for c in columns]
        return []

    def apply(self, a: torch.Tensor, row: torch.Tensor, image: int, size: tuple[int, int]) -> torch.Tensor:
        """a: (heads, n, l) of one row of the batch."""
        columns, before = self.columns(row), a.sum(-1, keepdim=True)
        share = torch.ones(a.shape[1], dtype=torch.float64)
        if self.mask is not None:
            share = area_means(self.mask[image % len(self.mask)], self.crop(size), grid_of(a.shape[1], size))
        a = a.clone()
        for c in columns:
            a[:, :, c] *= 1 - self.strength * share
        return a * before / a.sum(-1, keepdim=True) if self.renormalise and columns else a

    def crop(self, size: tuple[int, int]) -> tuple[slice, slice]:
        top, left = self.tops.get(size, (0, 0))
        return slice(8 * top, 8 * (top + size[0])), slice(8 * left, 8 * (left + size[1]))


def grid_of(pixels: int, size: tuple[int, int]) -> tuple[int, int]:
    return next(
        g for g in ((math.ceil(size[0] / f), math.ceil(size[1] / f)) for f in (1, 2, 4)) if math.prod(g) == pixels
    )


def area_means(mask: torch.Tensor, crop: tuple[slice, slice], grid: tuple[int, int]) -> torch.Tensor:
    """Mean of the mask under every cell, by loops; a cell takes every pixel that it touches."""
    mask = mask.double()[crop]
    (height, width), (rows, columns) = mask.shape, grid
    out = []
    for r in range(rows):
        for c in range(columns):
            y = slice(r * height // rows, -(-(r + 1) * height // rows))
            x = slice(c * width // columns, -(-(c + 1) * width // columns))
            out.append(mask[y, x].mean())
    return torch.stack(out)


def reference(host: Any, model: Any, stages: list[Stage], extra: Any = None) -> Any:
    """A clone of MODEL whose attn2 layers apply the stages in float64; `extra(q)` is added to every layer's output."""
    import comfy.patcher_extension

    clone, call = model.clone(), {}
    all_sigmas = model.get_model_object("model_sampling").sigmas

    def around_unet(executor, x, timesteps, context, y, control, options, **kwargs):
        call.update(context=context, size=tuple(x.shape[-2:]), images=len(x) // len(options["uuids"]))
        return executor(x, timesteps, context, y, control, options, **kwargs)

    def attention(q, k, v, extra_options):
        q, k, v = (t.double().unflatten(-1, (extra_options["n_heads"], -1)).transpose(1, 2) for t in (q, k, v))
        out = []
        for b in range(len(q)):
            a = torch.softmax(q[b] @ k[b].mT / math.sqrt(q.shape[-1]), -1)
            for stage in (s for s in stages if s.active(extra_options, all_sigmas)):
                a = stage.apply(a, call["context"][b], b % call["images"], call["size"])
            out.append((a @ v[b]).transpose(0, 1).flatten(1))
        result = torch.stack(out).float()
        return result if extra is None else result + extra(q.transpose(1, 2).flatten(2).float())

    clone.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, around_unet)
    for block in host.attention_blocks(model):
        clone.set_model_attn2_replace(attention, *block)
    return clone

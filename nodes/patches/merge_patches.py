"""Merge Forget Patches: makes one patch of several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from ...fmn_core.compose.fusion import fuse_patches
from ...fmn_core.compose.merge import COMPACT_RANK, MOST_PATCHES, MergeSettings, sum_patches
from ...fmn_core.compose.preserve_cost import preserve_cost
from ...fmn_core.compose.side_by_side import side_by_side
from ...fmn_core.concepts.templates import parse_lines
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.encoding_cache import MemoizedEncoding
from ...fmn_core.patch.file import load_patch
from ...fmn_core.patch.patch import ForgetPatch, base_difference
from .. import host
from ..adapter.references import with_cache
from ..adapter.transformer import TransformerText, text_model
from ..host.node_api import ForgetPatchType, Menu, io
from ..ui import destination, reports, shared_inputs
from ..ui.option_inputs import option_input
from ..ui.patch_source import PATCH_SUFFIX

FUSION, SUM, SIDE_BY_SIDE = METHODS = ("fusion", "sum", "side by side")
SOCKETS = tuple(f"patch_{n}" for n in range(1, 5))


class MergeForgetPatches(io.ComfyNode):
    """Merges patches by fusion, as a sum, or side by side."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_MergeForgetPatches",
            display_name="Merge Forget Patches",
            category=Menu.PATCHES,
            description="Makes one patch of 2 to 100. Fusion does to every concept what its own patch does and keeps the rest as a joint training would; "
            "a sum adds up what the patches do to everything else; side by side they stay apart for Gated Forget Patch, which applies those that a prompt is near.",
            is_output_node=True,
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP of the patches' base model; encodes their concepts again."),
                io.String.Input(
                    "patches",
                    default="",
                    multiline=True,
                    tooltip="Patch files under models/loras/forget_me_not, or other LoRAs under models/loras, one per line; a number after the name is its strength.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=FUSION,
                    tooltip="Fusion: exact, needs the patches' metadata. Sum: plain weighted sum, takes any LoRA. Side by side: for Gated Forget "
                    "Patch, best for many concepts; applied without a gate it is the sum. Needs the metadata.",
                ),
                option_input(MergeSettings, "rank", default=COMPACT_RANK),
                shared_inputs.patch_file("merged"),
                *(
                    ForgetPatchType.Input(name, optional=True, tooltip="A patch from another node, strength 1.")
                    for name in SOCKETS
                ),
            ],
            outputs=[
                ForgetPatchType.Output(
                    display_name="FORGET_PATCH", tooltip="The merged patch, for Apply Forget Patch."
                ),
                io.String.Output(display_name="report", tooltip="What it forgets, and what each way of merging costs."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, patches="", **inputs):
        try:
            return [host.file_version(host.patch_path(name)) for name, _ in parse_patch_list(patches)]
        except (ForgetError, OSError):
            return ""

    @classmethod
    def execute(cls, clip, patches, method, rank, file_name, **sockets) -> io.NodeOutput:
        file = destination.for_patch(file_name)
        listed = parse_patch_list(patches)
        with torch.inference_mode(False):
            connected = [sockets[name] for name in SOCKETS if sockets.get(name) is not None]
            sources = [*(load_patch(host.patch_path(name)) for name, _ in listed), *connected]
            strengths = [strength for _, strength in listed] + [1.0] * len(connected)
            adapter, settings = text_model(clip), MergeSettings(strengths, rank)
            if method == FUSION:
                _check_fusible(adapter)
            text = MemoizedEncoding(with_cache(adapter))
            merged, lines = _merge(text, sources, method, settings)
        saved = file.save_patch(merged)
        report = "\n".join([*saved.warning, *lines, *_base_warnings(sources), *reports.saved_lines(saved)])
        return io.NodeOutput(merged, report, ui={"text": (report,)})


def _check_fusible(adapter: Any) -> None:
    """Raises ForgetError on text encoders of models that change rows before their text entries read them: there, fusion would need the MODEL."""
    if isinstance(adapter, TransformerText) and adapter.family.before:
        raise ForgetError(
            f"Expected the text encoders of Stable Diffusion, FLUX.1, Chroma, SD 3 or another model that reads their rows as they are, got those of "
            f"{adapter.family.name}. Choose {SIDE_BY_SIDE}, or forget the concepts together with Forget Concept."
        )


def parse_patch_list(text: str) -> list[tuple[str, float]]:
    """Name in the host's list and strength, of each line; raises ForgetError on more than MOST_PATCHES lines."""
    lines = parse_lines(text)
    if len(lines) > MOST_PATCHES:
        raise ForgetError(f"Expected at most {MOST_PATCHES} patches, got {len(lines)}. Merge some of them first.")
    return [_parse_line(line) for line in lines]


def _parse_line(line: str) -> tuple[str, float]:
    name, strength = line, 1.0
    head, _, last = line.rpartition(" ")
    if head:
        with contextlib.suppress(ValueError):
            name, strength = head.strip(), float(last)
    name = name.removesuffix(PATCH_SUFFIX) + PATCH_SUFFIX
    patch_file = f"{host.PATCH_FOLDER}/{name}"
    return (patch_file if patch_file in host.patch_files() else name), strength


def _merge(
    text: Any, sources: list[ForgetPatch], method: str, settings: MergeSettings
) -> tuple[ForgetPatch, list[str]]:
    """The merged patch, as its file holds it, and the lines of the report."""
    sum_progress, fusion_progress, cost_progress = _phase_progress(3)
    if method == SIDE_BY_SIDE:
        merged = summed = side_by_side(sources, settings)
    else:
        merged = summed = sum_patches(sources, settings, sum_progress)
    if method == FUSION:
        merged = fuse_patches(text, sources, settings, fusion_progress)
    merged = merged.as_stored()
    lines = [f"{method} of {len(sources)} patches", f"forgets: {reports.forgotten(merged)}"]
    lines.append(f"rank {max(f.rank for f in merged.factors.values())}, {len(merged.factors)} layers")
    if "effect_kept" in merged.figures:
        kept = merged.figures["effect_kept"]
        lines.append(f"effect on each patch's own concepts: {min(kept):.1%} to {max(kept):.1%} kept")
    if merged.parts:
        lines.append(
            f"{len(merged.parts)} patches that Gated Forget Patch applies one by one; without it they act as their sum"
        )
    elif costs := preserve_cost(text, sources, [merged, summed]):
        lines.append(f"preserve prompts move {costs[0]:.4f} as far as the concepts; by sum {costs[1]:.4f}")
    cost_progress(1, 1)
    return merged, lines


def _phase_progress(count: int) -> list[Callable[[int, int], None]]:
    """Callbacks (done, total), one for each phase of the work, which all move the node's progress bar."""
    phase_steps = 1000
    bar = host.Progress(phase_steps * count)

    def callback(phase: int) -> Callable[[int, int], None]:
        return lambda done, total: bar.update(phase_steps * phase + phase_steps * done // total, phase_steps * count)

    return [callback(phase) for phase in range(count)]


def _base_warnings(patches: list[ForgetPatch]) -> list[str]:
    """A warning for each patch whose base model differs from that of the first."""
    known = [patch for patch in patches if patch.base]
    differences = [(patch, base_difference(known[0].base, patch.base)) for patch in known[1:]]
    return [f"warning, {reports.forgotten(patch)}: {difference}" for patch, difference in differences if difference]

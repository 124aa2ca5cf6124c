"""Merge Forget Patches: many patches as one file, without their interference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from ...fmn_core.compose.merge import MOST_PATCHES, MergeSettings, fuse_patches, sum_patches
from ...fmn_core.compose.preserve_cost import preserve_cost
from ...fmn_core.compose.side_by_side import side_by_side
from ...fmn_core.concepts.templates import parse_lines
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.encoding_cache import MemoizedEncoding
from ...fmn_core.patch.file import load_patch
from ...fmn_core.patch.patch import ForgetPatch, base_difference
from .. import host
from ..adapter.references import with_cache
from ..adapter.text import ComfyText
from ..host.node_api import CATEGORY, ForgetPatchType, io
from ..ui import destination, reports, shared_inputs
from ..ui.patch_source import PATCH_SUFFIX

METHODS = ("fusion", "sum", "side by side")
SOCKETS = tuple(f"patch_{n}" for n in range(1, 5))


class MergeForgetPatches(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FMN_MergeForgetPatches",
            display_name="Merge Forget Patches",
            category=CATEGORY,
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
                    default="fusion",
                    tooltip="Fusion: exact, needs the patches' metadata. Sum: plain weighted sum, takes any LoRA. Side by side: for Gated Forget "
                    "Patch, best for many concepts; applied without a gate it is the sum. Needs the metadata.",
                ),
                io.Int.Input(
                    "rank",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="Upper bound of the merged patch's LoRA rank; side by side the ranks add up.",
                ),
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
            return [host.file_version(host.patch_path(name)) for name, _ in listed(patches)]
        except (ForgetError, OSError):
            return ""

    @classmethod
    def execute(cls, clip, patches, method, rank, file_name, **sockets) -> io.NodeOutput:
        file = destination.of_patch(file_name)
        named = listed(patches)
        with torch.inference_mode(False):
            given = [load_patch(host.patch_path(name)) for name, _ in named]
            connected = [sockets[name] for name in SOCKETS if sockets.get(name) is not None]
            given += connected
            strengths = [strength for _, strength in named] + [1.0] * len(connected)
            text, settings = MemoizedEncoding(with_cache(ComfyText(clip))), MergeSettings(strengths, rank)
            merged, lines = _merge(text, given, method, settings)
        saved = file.save_patch(merged)
        report = "\n".join([*saved.warning, *lines, *_bases(given), *reports.saved(saved)])
        return io.NodeOutput(merged, report, ui={"text": (report,)})


def listed(text: str) -> list[tuple[str, float]]:
    """(name in the host's list, strength) of every line; raises ForgetError on more than 100 lines."""
    lines = parse_lines(text)
    if len(lines) > MOST_PATCHES:
        raise ForgetError(f"Expected at most {MOST_PATCHES} patches, got {len(lines)}. Merge some of them first.")
    return [_entry(line) for line in lines]


def _entry(line: str) -> tuple[str, float]:
    name, strength = line, 1.0
    head, _, last = line.rpartition(" ")
    if head:
        with contextlib.suppress(ValueError):
            name, strength = head.strip(), float(last)
    name = name.removesuffix(PATCH_SUFFIX) + PATCH_SUFFIX
    own = f"{host.PATCH_FOLDER}/{name}"
    return (own if own in host.patch_files() else name), strength


def _merge(text: Any, given: list[ForgetPatch], method: str, settings: MergeSettings) -> tuple[ForgetPatch, list[str]]:
    sums, fusion, costs_known = _progress_of_phases(3)
    if method == "side by side":
        merged = added = side_by_side(given, settings)
    else:
        merged = added = sum_patches(given, settings, sums)
    if method == "fusion":
        merged = fuse_patches(text, given, settings, fusion)
    merged = merged.as_stored()
    lines = [f"{method} of {len(given)} patches", f"forgets: {reports.forgotten(merged)}"]
    lines.append(f"rank {max(f.rank for f in merged.factors.values())}, {len(merged.factors)} layers")
    if "effect_kept" in merged.figures:
        kept = merged.figures["effect_kept"]
        lines.append(f"effect on each patch's own concepts: {min(kept):.1%} to {max(kept):.1%} kept")
    if merged.parts:
        lines.append(
            f"{len(merged.parts)} patches that Gated Forget Patch applies one by one; without it they act as their sum"
        )
    elif costs := preserve_cost(text, given, [merged, added]):
        lines.append(f"preserve prompts move {costs[0]:.4f} as far as the concepts; by sum {costs[1]:.4f}")
    costs_known(1, 1)
    return merged, lines


def _progress_of_phases(count: int) -> list[Callable[[int, int], None]]:
    """Functions (done, total) of work in several phases, which move one progress bar of the node."""
    share = 1000
    bar = host.Progress(share * count)

    def progress_of(phase: int) -> Callable[[int, int], None]:
        return lambda done, total: bar.update(share * phase + share * done // total, share * count)

    return [progress_of(phase) for phase in range(count)]


def _bases(given: list[ForgetPatch]) -> list[str]:
    """A warning for every patch whose base is not the first's."""
    known = [p for p in given if p.base]
    found = [(p, base_difference(known[0].base, p.base)) for p in known[1:]]
    return [f"warning, {reports.forgotten(p)}: {why}" for p, why in found if why]

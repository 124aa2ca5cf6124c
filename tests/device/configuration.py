"""What a process pretends: device, memory and precision. A process can believe in one configuration only."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30
# What ComfyUI keeps free for inference, by its own reckoning: 0.8 GiB and what it holds back for other programs.
KEPT_FREE = 0.8 * GIB + 400 * (1 << 20)


@dataclass(frozen=True)
class Configuration:
    """A host on a pretended card.

    `device`: "fake", or "cpu" for the run to compare with. `weights`: fp32, fp16 or bf16, of the UNet. `compute`: another precision
    to compute in (the host's manual cast). `vram`: bytes of the card; below 1e9, bytes beyond what the host keeps free. `state`: a
    name of the host's VRAMState. `dynamic`: newer hosts' DynamicVRAM; `patcher`: whether the miniature's MODEL is loaded as a
    checkpoint loader would ("checkpoint") or as its node does ("node"). `stored`: the precision that its file seems to have. `resident`: bytes that may be resident at once under DynamicVRAM.
    `streams`: weights are offloaded through two streams, as on NVIDIA: nothing runs at once here, but buffers are used again as there.
    """

    device: str = "fake"
    weights: str = "fp32"
    compute: str = ""
    stored: str = ""
    vram: float = 8 * GIB
    state: str = "NORMAL_VRAM"
    dynamic: bool = False
    patcher: str = "checkpoint"
    resident: float = 1e18
    streams: bool = False

    def capacity(self) -> int:
        """Bytes of the card's memory."""
        return int(self.vram if self.vram >= 1e9 else self.vram + KEPT_FREE)


CPU = Configuration(device="cpu")
# On every host.
CONFIGURATIONS = {
    "all on the device": Configuration(),
    "fp16 weights": Configuration(weights="fp16"),
    "bf16 weights": Configuration(weights="bf16"),
    "manual cast": Configuration(weights="fp16", compute="fp32"),
    "partial load": Configuration(vram=20e6),
    # Less than the text encoder: to load it, the host takes the whole UNet away.
    "small card": Configuration(vram=8e6),
    "no VRAM": Configuration(state="NO_VRAM"),
}
# On hosts with DynamicVRAM.
DYNAMIC = {
    "DynamicVRAM": Configuration(dynamic=True),
    "DynamicVRAM, 14 MB resident": Configuration(dynamic=True, resident=14e6),
    "DynamicVRAM, streams": Configuration(dynamic=True, streams=True, resident=14e6),
    "DynamicVRAM, fp32 file as bf16": Configuration(dynamic=True, weights="bf16", stored="fp32"),
}

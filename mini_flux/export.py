"""Packs the trained weights: python -m mini_flux.export [--data DIR] (half precision, rows of used tokens only).

Writes vae.safetensors, mini_flux.safetensors (transformer and text encoders), judge.safetensors and SHA256SUMS into weights/, and
latent scale and preview colours into config.json. A part that has no checkpoint stays as it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from mini_flux import text
from mini_flux.config import CONFIG, DATA, HERE
from mini_flux.encode_scenes import load_scenes, trained_vae
from mini_sd.export import half, load_ema, preview_colours, write_sums
from tools import comfy_host

WEIGHTS, COLOUR_SAMPLES = HERE / "weights", 128
T5_TABLE, CLIP_TABLE = "shared.weight", "text_model.embeddings.token_embedding.weight"


def with_vocabulary(state: dict[str, torch.Tensor], table: str, tokens: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A text encoder's tensors with its table as the rows of used tokens and their ids."""
    tensors = {k: v for k, v in state.items() if k != table and not k.endswith("position_ids")}
    # Row 0 stands for tokens that are not in the world, and is zero.
    return tensors | {"vocabulary.weight": state[table][1:], "vocabulary.ids": torch.tensor(tokens, dtype=torch.int32)}


def files_of(data: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors by file, of the checkpoints that there are."""
    files = {}
    if (data / "vae.ckpt").exists():
        files["vae"] = _named("vae", load_ema(data / "vae.ckpt", "vae"))
    if (data / "flux.ckpt").exists():
        t5 = with_vocabulary(load_ema(data / "text.ckpt", "t5"), T5_TABLE, text.t5().tokens)
        clip = with_vocabulary(load_ema(data / "text.ckpt", "clip"), CLIP_TABLE, text.clip().tokens)
        files["mini_flux"] = (
            _named("flux", load_ema(data / "flux.ckpt", "flux")) | _named("t5", t5) | _named("clip", clip)
        )
    if (data / "judge.ckpt").exists():
        files["judge"] = load_ema(data / "judge.ckpt", "judge")
    return files


def _named(part: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": tensor for name, tensor in tensors.items()}


@torch.no_grad()
def colours(data: Path) -> tuple[list[list[float]], list[float]]:
    """The host's preview colours of latents, from some scenes."""
    vae = trained_vae(data)
    latents = load_scenes(data)[0][:COLOUR_SAMPLES].float()
    pictures = vae.decoder(vae.post_quant_conv(latents / CONFIG["latent_scale"]))
    return preview_colours(latents, pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    comfy_host.activate(cpu=True)
    from safetensors.torch import save_file

    WEIGHTS.mkdir(exist_ok=True)
    for stem, tensors in files_of(args.data).items():
        save_file(half(tensors), WEIGHTS / f"{stem}.safetensors")
    if (args.data / "scenes.npz").exists():
        CONFIG["latent_scale"] = round(float(np.load(args.data / "scenes.npz")["scale"]), 6)
        CONFIG["latent_rgb_factors"], CONFIG["latent_rgb_bias"] = colours(args.data)
    lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in CONFIG.items()]
    (HERE / "config.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    write_sums(WEIGHTS)


if __name__ == "__main__":
    main()

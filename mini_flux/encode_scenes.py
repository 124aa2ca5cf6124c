"""Composes scenes and encodes them with the trained VAE: python -m mini_flux.encode_scenes [--count N] [--data DIR]

Writes scenes.npz: latents (N, 16, 16, 16) float16, scaled to a standard deviation of 1, their scale, and the scenes as JSON. An interrupted run begins
anew.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from mini_flux.config import DATA, HERE
from mini_flux.networks import build_vae
from mini_flux.prepare_art import load_artwork
from mini_flux.scenes import Placed, Scene, compose, random_scene
from mini_sd.export import load_ema
from mini_sd.training import to_tensor
from tools import comfy_host

BATCH = 16


def load_scenes(folder: Path) -> tuple[torch.Tensor, list[Scene]]:
    """Latents (N, 16, h, w) float16 and the scene of each."""
    data = np.load(folder / "scenes.npz")
    return torch.from_numpy(data["latents"]), [_scene(record) for record in json.loads(str(data["scenes"]))]


def trained_vae(folder: Path) -> torch.nn.Module:
    """The VAE of the checkpoint in a folder, or the one that ships."""
    from safetensors.torch import load_file

    vae = build_vae().eval()
    if (folder / "vae.ckpt").exists():
        vae.load_state_dict(load_ema(folder / "vae.ckpt", "vae"))
    else:
        shipped = load_file(HERE / "weights" / "vae.safetensors")
        vae.load_state_dict({name.removeprefix("vae."): tensor.float() for name, tensor in shipped.items()})
    return vae


def _scene(record: dict) -> Scene:
    things = tuple(Placed(**placed) for placed in record["things"])
    return Scene(things, record["relation"], tuple(record["grounds"]), record["style"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=14_000)
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    comfy_host.activate(cpu=True)
    vae, artwork, rng = trained_vae(args.data), load_artwork(args.data), np.random.default_rng(0)
    latents, scenes = [], []
    while len(scenes) < args.count:
        batch = [random_scene(artwork, rng) for _ in range(BATCH)]
        # At exact places: a drawing at any pixel would be a hundred and more patterns of tokens to learn.
        pictures = np.stack([compose(scene, artwork) for scene in batch])
        with torch.no_grad():
            latents.append(vae.quant_conv(vae.encoder(to_tensor(pictures))).chunk(2, dim=1)[0])
        scenes += batch
    whole = torch.cat(latents)
    scale = 1 / float(whole.std())
    records = json.dumps([asdict(scene) for scene in scenes])
    np.savez(args.data / "scenes.npz", latents=(whole * scale).half().numpy(), scale=scale, scenes=records)
    print(f"{len(scenes)} scenes, scale {scale:.4f}")


if __name__ == "__main__":
    main()

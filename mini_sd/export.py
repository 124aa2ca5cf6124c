"""Packs the trained weights: python -m mini_sd.export (half precision, used vocabulary rows only).

Writes mini_sd.safetensors, judge.safetensors, clip.safetensors (the image tower) and SHA256SUMS into weights/, and the
latent scale and preview colours into config.json. A part that has no checkpoint stays as it is shipped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch

from mini_sd import captions
from mini_sd.concepts import STYLES
from mini_sd.export_diffusers import load_parts
from mini_sd.training import CONFIG, HERE, concept_art, load_art, to_tensor
from tools import comfy_host

WEIGHTS = HERE / "weights"


def load_ema(path: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)["emas"][name]


def text_tensors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The text encoder under the names of the CLIP layout; the vocabulary as rows and their token ids."""
    tensors = {}
    for key, value in state.items():
        key = "text_model." + key.removeprefix("text_model.")
        if key.endswith("token_embedding.weight"):
            tensors["vocabulary.weight"] = value[1:]  # row 0 stands for unknown words and is zero
            tensors["vocabulary.ids"] = torch.tensor(captions.vocabulary(), dtype=torch.int32)
        elif not key.endswith("position_ids"):
            tensors[key] = value
    # Stock SD 1.x encoders have no projection; the identity makes the pooled output the end token's embedding.
    tensors["text_projection.weight"] = torch.eye(tensors["vocabulary.weight"].shape[1])
    return tensors


def merged_parts(data: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of unet, text and vae: from checkpoints where there are any, else those that are shipped."""
    parts = load_parts() if (WEIGHTS / "mini_sd.safetensors").exists() else {}
    if (data / "unet.ckpt").exists():
        parts["unet"] = load_ema(data / "unet.ckpt", "unet")
        parts["text"] = text_tensors(load_ema(data / "unet.ckpt", "text"))
    if (data / "vae.ckpt").exists():
        parts["vae"] = load_ema(data / "vae.ckpt", "vae")
    return parts


def preview_colours(latents: torch.Tensor, images: torch.Tensor) -> tuple[list[list[float]], list[float]]:
    """Least-squares map from a latent to the colour of its 8 px cell, for the host's previews."""
    cells = torch.nn.functional.avg_pool2d(images, 8).movedim(1, -1).flatten(0, -2)
    x = latents.movedim(1, -1).flatten(0, -2)
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    solution = torch.linalg.lstsq(x, cells).solution
    return [[round(v, 4) for v in row] for row in solution[:-1].tolist()], [round(v, 4) for v in solution[-1].tolist()]


def half(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in tensors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("out/mini_sd"))
    args = parser.parse_args()
    comfy_host.activate()
    from safetensors.torch import save_file

    from mini_sd.networks import build_vae
    from mini_sd.train_unet import encode_art

    WEIGHTS.mkdir(exist_ok=True)
    parts = merged_parts(args.data)
    save_file(
        half({f"{p}.{k}": v for p, part in parts.items() for k, v in part.items()}), WEIGHTS / "mini_sd.safetensors"
    )
    for name in ("judge", "clip"):
        if (args.data / f"{name}.ckpt").exists():
            save_file(half(load_ema(args.data / f"{name}.ckpt", name)), WEIGHTS / f"{name}.safetensors")

    vae = build_vae().eval()
    vae.load_state_dict(parts["vae"])
    images, names, sets = load_art(args.data)
    art = images[[i for i, _, _ in concept_art(names, sets, STYLES)]]
    latents = encode_art(vae, art, "cpu")
    CONFIG["scale_factor"] = round(1 / latents.std().item(), 6)
    factors, bias = preview_colours(latents * CONFIG["scale_factor"], to_tensor(art))
    CONFIG["latent_rgb_factors"], CONFIG["latent_rgb_bias"] = factors, bias
    (HERE / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    write_sums(WEIGHTS)


def write_sums(weights: Path) -> None:
    """Writes the SHA256SUMS of a folder's weights."""
    files = sorted(weights.glob("*.safetensors"))
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (weights / "SHA256SUMS").write_text("".join(sums))
    print("".join(sums), sum(p.stat().st_size for p in files) / 1e6, "MB")


if __name__ == "__main__":
    main()

"""Writes the miniature as a diffusers folder: python -m mini_sd.export_diffusers FOLDER

The folder loads with StableDiffusionPipeline.from_pretrained(FOLDER); the weights are those that ship, in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mini_sd.training import CONFIG, HERE
from tools import comfy_host

VOCABULARY = 49408


def read_parts(folder: Path, names: tuple[str, ...], files: tuple[str, ...]) -> dict[str, dict[str, torch.Tensor]]:
    """A miniature's shipped tensors in float32, by the names of its parts."""
    from safetensors.torch import load_file

    parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
    for stem in files:
        for key, value in load_file(folder / "weights" / f"{stem}.safetensors").items():
            part, name = key.split(".", 1)
            parts[part][name] = value.float() if value.is_floating_point() else value
    return parts


def load_parts() -> dict[str, dict[str, torch.Tensor]]:
    """The shipped tensors in float32, by part: unet, text, vae."""
    return read_parts(HERE, ("unet", "text", "vae"), ("mini_sd",))


def token_table(weights: dict[str, torch.Tensor], size: int) -> torch.Tensor:
    """A text encoder's whole table, in which tokens that are not in the world are zero vectors."""
    rows = weights["vocabulary.weight"]
    table = torch.zeros(size, rows.shape[1])
    table[weights["vocabulary.ids"].long()] = rows
    return table


def build_unet(weights: dict[str, torch.Tensor]):
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    c = CONFIG["unet"]
    levels = len(c["channel_mult"])
    unet = UNet2DConditionModel(
        sample_size=c["image_size"],
        block_out_channels=tuple(c["model_channels"] * m for m in c["channel_mult"]),
        layers_per_block=c["num_res_blocks"][0],
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        cross_attention_dim=c["context_dim"],
        attention_head_dim=c["num_heads"],
    )
    prefixed = {f"model.diffusion_model.{k}": v for k, v in weights.items()}
    unet.load_state_dict(convert_ldm_unet_checkpoint(prefixed, unet.config))
    return unet


def vae_of(config: dict[str, Any], weights: dict[str, torch.Tensor], **scales: float):
    """The VAE of a miniature's configuration; `scales`: scaling_factor, and shift_factor where there is one."""
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    levels = len(config["ch_mult"])
    vae = AutoencoderKL(
        block_out_channels=tuple(config["ch"] * m for m in config["ch_mult"]),
        layers_per_block=config["num_res_blocks"],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=config["z_channels"],
        sample_size=config["resolution"],
        **scales,
    )
    prefixed = {f"first_stage_model.{k}": v for k, v in weights.items()}
    vae.load_state_dict(convert_ldm_vae_checkpoint(prefixed, vae.config))
    return vae


def text_encoder_of(config: dict[str, Any], weights: dict[str, torch.Tensor], **options: Any):
    """The CLIP text encoder of a miniature's configuration."""
    from transformers import CLIPTextConfig, CLIPTextModel

    model = CLIPTextModel(CLIPTextConfig(vocab_size=VOCABULARY, **{"hidden_act": "quick_gelu", **config}, **options))
    state = {"text_model.embeddings.token_embedding.weight": token_table(weights, VOCABULARY)}
    state |= {k: v for k, v in weights.items() if k.startswith("text_model.")}
    # transformers 5 dropped the prefix that every CLIP checkpoint has
    known = set(model.state_dict())
    model.load_state_dict(
        {k if k in known else k.removeprefix("text_model."): v for k, v in state.items()}, strict=False
    )
    return model


def build_pipeline():
    """The miniature as a StableDiffusionPipeline."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    parts = load_parts()
    scheduler = DDIMScheduler(
        beta_start=CONFIG["sampling"]["linear_start"],
        beta_end=CONFIG["sampling"]["linear_end"],
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if CONFIG["prediction"] == "v" else "epsilon",
        rescale_betas_zero_snr=CONFIG["sampling"]["zsnr"],
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=vae_of(CONFIG["vae"], parts["vae"], scaling_factor=CONFIG["scale_factor"]),
        text_encoder=text_encoder_of(CONFIG["text"], parts["text"], projection_dim=CONFIG["text"]["hidden_size"]),
        # The host pads and cuts prompts itself; here the tokenizer does.
        tokenizer=CLIPTokenizer.from_pretrained(
            str(comfy_host.root() / "comfy" / "sd1_tokenizer"), model_max_length=77
        ),
        unet=build_unet(parts["unet"]),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write_folder(description: str | None, build: Callable[[], Any]) -> None:
    """Writes the pipeline that `build` makes to the folder that the command line names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    comfy_host.activate()
    build().save_pretrained(args.folder)
    print(f"wrote {args.folder}")


if __name__ == "__main__":
    write_folder(__doc__, build_pipeline)

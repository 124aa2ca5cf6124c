"""Builds the miniature's networks from the host's stock classes; call comfy_host.activate() first."""

from __future__ import annotations

import torch

from mini_sd.training import CONFIG, init_weights


def build_vae() -> torch.nn.Module:
    """The f8 KL-VAE: (B, 3, H, W) in -1..1 <-> (B, 4, H/8, W/8)."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    vae = AutoencoderKL(ddconfig=CONFIG["vae"], embed_dim=CONFIG["vae"]["z_channels"])
    init_weights(vae)
    return vae


def build_unet() -> torch.nn.Module:
    """The UNet: latent (B, 4, h, w), timestep (B,), context (B, 77, 96) -> (B, 4, h, w)."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(**CONFIG["unet"], operations=comfy.ops.disable_weight_init)
    init_weights(unet)
    # As in the published architecture: residual branches and the output start at zero.
    for name, module in unet.named_modules():
        if name.endswith(("out_layers.3", "proj_out")) or name == "out.2":
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return unet

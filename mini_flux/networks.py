"""Builds the networks of the miniature FLUX from the host's stock classes; call comfy_host.activate() first."""

from __future__ import annotations

from typing import Any

import torch

from mini_flux import text
from mini_sd.training import init_weights

LATENT_CHANNELS, TEXT_WIDTH, POOLED_WIDTH = 16, 256, 128
VAE_CONFIG = {
    "double_z": True, "z_channels": LATENT_CHANNELS, "resolution": 128, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2, 2, 4],
    "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
FLUX_CONFIG = {
    "image_model": "flux", "in_channels": LATENT_CHANNELS, "out_channels": LATENT_CHANNELS, "patch_size": 2, "vec_in_dim": POOLED_WIDTH,
    "context_in_dim": TEXT_WIDTH, "hidden_size": 160, "mlp_ratio": 4.0, "num_heads": 5, "depth": 3, "depth_single_blocks": 4,
    "axes_dim": [8, 12, 12], "theta": 10000, "qkv_bias": True, "guidance_embed": False,
}  # fmt: skip
T5_CONFIG = {
    "d_model": TEXT_WIDTH, "d_ff": 512, "d_kv": 64, "num_heads": 4, "num_layers": 4, "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True,
    "model_type": "t5",
}  # fmt: skip
CLIP_CONFIG = {
    "hidden_size": POOLED_WIDTH, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_act": "quick_gelu",
    "max_position_embeddings": 77,
}  # fmt: skip


def build_vae() -> torch.nn.Module:
    """The f8 KL-VAE: (B, 3, H, W) in -1..1 <-> (B, 16, H/8, W/8)."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    vae = AutoencoderKL(ddconfig=VAE_CONFIG, embed_dim=LATENT_CHANNELS)
    init_weights(vae)
    return vae


def build_flux() -> torch.nn.Module:
    """The transformer: latent (B, 16, h, w), time (B,) in 0..1, context (B, l, 256), y (B, 128) -> (B, 16, h, w)."""
    import comfy.ops
    from comfy.ldm.flux.model import Flux, FluxParams

    newer = {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else {}
    flux = Flux(**FLUX_CONFIG, **newer, operations=comfy.ops.disable_weight_init)
    init_weights(flux)
    for name, parameter in flux.named_parameters():
        # As in the published architecture: modulations and the output start at zero, norms of queries and keys at one.
        if "_mod.lin." in name or ".modulation.lin." in name or name.startswith("final_layer."):
            torch.nn.init.zeros_(parameter)
        elif name.endswith(".scale"):
            torch.nn.init.ones_(parameter)
    return flux


def build_t5() -> torch.nn.Module:
    """The text encoder of the rows, over the small vocabulary of text.t5()."""
    import comfy.ops
    from comfy.text_encoders.t5 import T5

    model = T5(
        {**T5_CONFIG, "vocab_size": len(text.t5().tokens) + 1}, torch.float32, "cpu", comfy.ops.disable_weight_init
    )
    init_weights(model)
    for module in model.modules():
        if type(module).__name__ == "T5LayerNorm":
            torch.nn.init.ones_(module.weight)
    return _with_unknown_row(model)


def build_clip() -> torch.nn.Module:
    """The text encoder of the pooled vector, over the small vocabulary of text.clip()."""
    import comfy.ops
    from comfy.clip_model import CLIPTextModel

    tokens = text.clip()
    config = {**CLIP_CONFIG, "eos_token_id": tokens.row_of[tokens.pad]}
    model = CLIPTextModel(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    model.set_input_embeddings(
        comfy.ops.disable_weight_init.Embedding(len(tokens.tokens) + 1, POOLED_WIDTH, dtype=torch.float32)
    )
    init_weights(model)
    torch.nn.init.normal_(model.text_model.embeddings.position_embedding.weight, std=0.02)
    return _with_unknown_row(model)


def _with_unknown_row(model: Any) -> torch.nn.Module:
    """Gives the token table small weights, and a zero row for words that are not in the world, which stays zero."""
    table = model.get_input_embeddings()
    table.padding_idx = text.UNKNOWN
    with torch.no_grad():
        table.weight.normal_(std=0.5)
        table.weight[text.UNKNOWN] = 0
    return model


def allow_gradients(*networks: torch.nn.Module) -> None:
    """Lets autograd through the host's networks, which add in place to what their norms have kept for the backward pass."""
    for network in networks:
        for module in network.modules():
            if type(module).__name__.endswith("LayerNorm"):
                module.register_forward_pre_hook(lambda module, inputs: (inputs[0].clone(), *inputs[1:]))

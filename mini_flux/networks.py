"""Builds the networks of the miniature FLUX from the host's stock classes; call comfy_host.activate() first."""

from __future__ import annotations

from typing import Any

import torch

from mini_flux import text
from mini_flux.config import CONFIG
from mini_sd.training import init_weights


def build_vae() -> torch.nn.Module:
    """The f8 KL-VAE: (B, 3, H, W) in -1..1 <-> (B, 16, H/8, W/8)."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    vae = AutoencoderKL(ddconfig=CONFIG["vae"], embed_dim=CONFIG["vae"]["z_channels"])
    init_weights(vae)
    return vae


def build_flux() -> torch.nn.Module:
    """The transformer: latent (B, 16, h, w), time (B,) in 0..1, context (B, l, 256), y (B, 128) -> (B, 16, h, w)."""
    import comfy.ops
    from comfy.ldm.flux.model import Flux, FluxParams

    newer = {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else {}
    flux = Flux(**CONFIG["flux"], **newer, operations=comfy.ops.disable_weight_init)
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
        {**CONFIG["t5"], "vocab_size": len(text.t5().tokens) + 1}, torch.float32, "cpu", comfy.ops.disable_weight_init
    )
    init_weights(model)
    for module in model.modules():
        if type(module).__name__ == "T5LayerNorm":
            torch.nn.init.ones_(module.weight)
        elif type(module).__name__ == "T5Attention":
            # As published: its attention has no scale.
            module.q.weight.data.mul_(CONFIG["t5"]["d_kv"] ** -0.5)
            if module.relative_attention_bias is not None:
                _look_around(module.relative_attention_bias.weight.data)
    return _with_unknown_row(model)


def _look_around(bias: torch.Tensor) -> None:
    """Lets the first head of T5 begin with the words before each word, and the second with those after it.

    Begun at random, it took the things of a scene for a set in 6,000 steps, and never learned which stands where.

    Parameters
    ----------
    bias
        (32 buckets of distances, heads); the first half is of words before and the word itself, the second of words after.
    """
    half = len(bias) // 2
    bias.normal_(std=0.3)
    bias[:half, 0] += 3
    bias[half:, 0] -= 3
    bias[:half, 1] -= 3
    bias[half:, 1] += 3


def build_clip() -> torch.nn.Module:
    """The text encoder of the pooled vector, over the small vocabulary of text.clip()."""
    import comfy.ops
    from comfy.clip_model import CLIPTextModel

    tokens = text.clip()
    config = {**CONFIG["clip"], "eos_token_id": tokens.row_of[tokens.pad]}
    model = CLIPTextModel(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    model.set_input_embeddings(
        comfy.ops.disable_weight_init.Embedding(
            len(tokens.tokens) + 1, CONFIG["clip"]["hidden_size"], dtype=torch.float32
        )
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

"""Writes the miniature FLUX as a diffusers folder: python -m mini_flux.export_diffusers FOLDER

The folder loads with FluxPipeline.from_pretrained(FOLDER); the weights are those that ship, in float32. Draw with
max_sequence_length=48, true_cfg_scale=3 and negative_prompt="", as it has no guidance built in.
"""

from __future__ import annotations

from typing import Any

import torch

from mini_flux.config import CONFIG, HERE
from mini_sd.export_diffusers import read_parts, text_encoder_of, token_table, vae_of, write_folder
from tools import comfy_host

T5_VOCABULARY = 32128
# Names of diffusers by those of the published checkpoint, of layers that are the same.
OUTER = {
    "img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1", "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1", "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
}  # fmt: skip
DOUBLE = {
    "img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear", "img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj", "img_mlp.2": "ff.net.2", "txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2",
}  # fmt: skip
DOUBLE_NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q", "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q", "txt_attn.norm.key_norm": "attn.norm_added_k",
}  # fmt: skip
SINGLE = {"modulation.lin": "norm.linear", "linear2": "proj_out"}
SINGLE_NORMS = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}
# Layers that diffusers splits.
SPLIT = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
}


def transformer_tensors(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The transformer's tensors under the names of diffusers."""
    tensors = {}
    for key, value in weights.items():
        path, kind = key.rsplit(".", 1)
        if path == "final_layer.adaLN_modulation.1":
            # Shift, then scale; diffusers has them the other way round.
            tensors[f"norm_out.linear.{kind}"] = torch.cat(value.chunk(2)[::-1])
        elif path in OUTER:
            tensors[f"{OUTER[path]}.{kind}"] = value
        else:
            tensors |= _block_tensors(path, kind, value)
    return tensors


def _block_tensors(path: str, kind: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    blocks, number, layer = path.split(".", 2)
    prefix = f"{'transformer_blocks' if blocks == 'double_blocks' else 'single_transformer_blocks'}.{number}."
    names, norms = (DOUBLE, DOUBLE_NORMS) if blocks == "double_blocks" else (SINGLE, SINGLE_NORMS)
    if layer in SPLIT:
        width = CONFIG["flux"]["hidden_size"]
        parts = value.split([width] * 3 + ([len(value) - 3 * width] if len(value) > 3 * width else []))
        return {f"{prefix}{name}.{kind}": part for name, part in zip(SPLIT[layer], parts, strict=True)}
    if layer in norms:
        return {f"{prefix}{norms[layer]}.weight": value}
    return {f"{prefix}{names[layer]}.{kind}": value}


def build_transformer(weights: dict[str, torch.Tensor]) -> Any:
    from diffusers import FluxTransformer2DModel

    c = CONFIG["flux"]
    transformer = FluxTransformer2DModel(
        in_channels=c["in_channels"] * c["patch_size"] ** 2,
        num_layers=c["depth"],
        num_single_layers=c["depth_single_blocks"],
        attention_head_dim=c["hidden_size"] // c["num_heads"],
        num_attention_heads=c["num_heads"],
        joint_attention_dim=c["context_in_dim"],
        pooled_projection_dim=c["vec_in_dim"],
        guidance_embeds=c["guidance_embed"],
        axes_dims_rope=tuple(c["axes_dim"]),
    )
    transformer.load_state_dict(transformer_tensors(weights))
    return transformer


def build_t5(weights: dict[str, torch.Tensor]) -> Any:
    from transformers import T5Config, T5EncoderModel

    c = CONFIG["t5"]
    config = T5Config(
        vocab_size=T5_VOCABULARY,
        feed_forward_proj="gated-gelu",
        **{k: c[k] for k in ("d_model", "d_ff", "d_kv", "num_heads", "num_layers")},
    )
    model = T5EncoderModel(config)
    state = {k: v for k, v in weights.items() if not k.startswith("vocabulary.")}
    state["shared.weight"] = state["encoder.embed_tokens.weight"] = token_table(weights, T5_VOCABULARY)
    model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()})
    return model


def build_pipeline() -> Any:
    """The miniature as a FluxPipeline."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
    from transformers import CLIPTokenizer, T5TokenizerFast

    parts = read_parts(HERE, ("flux", "t5", "clip", "vae"), ("mini_flux", "vae"))
    shift = CONFIG["sampling"]["shift"]
    texts = comfy_host.root() / "comfy"
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=shift, max_shift=shift),
        vae=vae_of(CONFIG["vae"], parts["vae"], scaling_factor=CONFIG["latent_scale"], shift_factor=0.0),
        text_encoder=text_encoder_of(CONFIG["clip"], parts["clip"], eos_token_id=49407),
        tokenizer=CLIPTokenizer.from_pretrained(str(texts / "sd1_tokenizer"), model_max_length=77),
        text_encoder_2=build_t5(parts["t5"]),
        tokenizer_2=T5TokenizerFast.from_pretrained(str(texts / "text_encoders" / "t5_tokenizer")),
        transformer=build_transformer(parts["flux"]),
    )


if __name__ == "__main__":
    write_folder(__doc__, build_pipeline)

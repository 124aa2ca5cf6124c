"""Random transformers of the host's own classes, a few hundred thousand weights each, with text encoders of the host's classes."""

from __future__ import annotations

import base64
import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

# Width of the rows of every text encoder here.
TEXT = 128
_T5 = {"d_model": TEXT, "d_ff": 2 * TEXT, "d_kv": 16, "num_heads": 4, "num_layers": 2}
_CLIP = {
    "hidden_size": TEXT,
    "intermediate_size": 2 * TEXT,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "projection_dim": TEXT,
}
_LLM = {"hidden_size": TEXT, "intermediate_size": 2 * TEXT, "num_hidden_layers": 3}


@dataclass
class Tiny:
    """How a family is made small.

    Attributes
    ----------
    config
        Its class in comfy.supported_models, and the values of its network's configuration.
    text
        Module of its text encoder in comfy.text_encoders, the class of its tokenizer, and that of its text encoder, or a function that makes it.
    encoder
        Name of the text encoder in the host's options, and the values of its configuration.
    latent
        Shape of a latent.
    options
        Further options of the host's text encoders.
    arguments
        Of the function that makes the text encoder.
    spiece
        Whether the tokenizer's vocabulary comes with the weights; a small one is trained then.
    tekken
        Whether it does so in Mistral's format; a small one is written then.
    """

    config: tuple[str, dict[str, Any]]
    text: tuple[str, str, str]
    encoder: tuple[str, dict[str, Any]]
    latent: tuple[int, ...] = (1, 16, 8, 8)
    spiece: dict[str, Any] | None = None
    tekken: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


_LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2,
    "n_kv_heads": 2, "cap_feat_dim": TEXT, "axes_dims": [16, 8, 8], "axes_lens": [300, 64, 64], "qk_norm": True,
}  # fmt: skip
_FLUX2 = {
    "image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": 3 * TEXT, "hidden_size": 64,
    "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "axes_dim": [8, 8, 8, 8], "theta": 2000, "patch_size": 1,
    "qkv_bias": False, "guidance_embed": False, "txt_ids_dims": [3], "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
}  # fmt: skip
_HUNYUAN = {
    "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "context_in_dim": TEXT, "hidden_size": 64, "mlp_ratio": 2.0,
    "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "axes_dim": [8, 12, 12], "theta": 256, "patch_size": [1, 2, 2], "qkv_bias": True,
    "guidance_embed": False, "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None,
}  # fmt: skip
TINY = {
    "Chroma": Tiny(
        ("Chroma", {
            "image_model": "chroma", "in_channels": 64, "out_channels": 64, "patch_size": 2, "context_in_dim": TEXT, "hidden_size": 64,
            "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "axes_dim": [8, 12, 12], "theta": 10000, "qkv_bias": True,
            "in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 2,
        }),
        ("pixart_t5", "PixArtTokenizer", "pixart_te"), ("t5xxl", _T5),
    ),
    "FLUX.2 dev": Tiny(
        ("Flux2", _FLUX2 | {"guidance_embed": True}), ("flux", "Flux2Tokenizer", "flux2_te"),
        ("mistral3_24b", _LLM | {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 31, "vocab_size": 512}),
        latent=(1, 128, 4, 4), tekken=True,
    ),
    "FLUX.2 Klein 4B": Tiny(
        ("Flux2", _FLUX2),
        ("flux", "KleinTokenizer", "klein_te"),
        ("qwen3_4b", _LLM | {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 28}), latent=(1, 128, 4, 4),
    ),
    "Qwen-Image": Tiny(
        ("QwenImage", {
            "image_model": "qwen_image", "in_channels": 64, "out_channels": 16, "num_layers": 2, "attention_head_dim": 32,
            "num_attention_heads": 2, "joint_attention_dim": TEXT, "axes_dims_rope": (8, 12, 12),
        }),
        ("qwen_image", "QwenImageTokenizer", "te"), ("qwen25_7b", _LLM | {"num_attention_heads": 2, "num_key_value_heads": 1}),
        latent=(1, 16, 1, 8, 8),
    ),
    "Lumina 2": Tiny(
        ("Lumina2", _LUMINA), ("lumina2", "LuminaTokenizer", "te"),
        ("gemma2_2b", _LLM | {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 512}),
        spiece={"bos_id": 2, "eos_id": 1, "pad_id": 0, "unk_id": 3, "add_dummy_prefix": False},
    ),
    "Z-Image": Tiny(
        ("ZImage", _LUMINA | {"dim": 256, "axes_dims": [64, 32, 32], "z_image_modulation": True, "pad_tokens_multiple": 32}),
        ("z_image", "ZImageTokenizer", "te"),
        ("qwen3_4b", _LLM | {"num_attention_heads": 2, "num_key_value_heads": 1}),
    ),
    "Wan": Tiny(
        ("WAN21_T2V", {
            "image_model": "wan2.1", "model_type": "t2v", "in_dim": 16, "out_dim": 16, "dim": 64, "ffn_dim": 128, "freq_dim": 32,
            "text_dim": TEXT, "num_heads": 2, "num_layers": 2,
        }),
        ("wan", "WanT5Tokenizer", "te"), ("umt5xxl", _T5 | {"vocab_size": 512}), latent=(1, 16, 1, 8, 8),
        spiece={"bos_id": -1, "eos_id": 1, "pad_id": 0, "unk_id": 2, "add_dummy_prefix": True},
    ),
    "PixArt": Tiny(
        ("PixArtSigma", {
            "image_model": "pixart_sigma", "input_size": 128, "hidden_size": 72, "depth": 2, "num_heads": 2, "caption_channels": TEXT,
            "micro_condition": False, "pe_interpolation": 1, "model_max_length": 300,
        }),
        ("pixart_t5", "PixArtTokenizer", "pixart_te"), ("t5xxl", _T5), latent=(1, 4, 64, 64),
    ),
    "Cosmos Predict 2": Tiny(
        ("CosmosT2IPredict2", {
            "image_model": "cosmos_predict2", "in_channels": 16, "out_channels": 16, "max_img_h": 64, "max_img_w": 64, "max_frames": 16,
            "patch_spatial": 2, "patch_temporal": 1, "concat_padding_mask": True, "model_channels": 64, "num_blocks": 2, "num_heads": 2,
            "crossattn_emb_channels": TEXT, "pos_emb_cls": "rope3d", "use_adaln_lora": True, "adaln_lora_dim": 16,
        }),
        ("cosmos", "CosmosT5Tokenizer", "te"), ("t5xxl", _T5), latent=(1, 16, 1, 8, 8),
    ),
    "AuraFlow": Tiny(
        ("AuraFlow", {
            "in_channels": 4, "out_channels": 4, "dim": 64, "n_layers": 2, "n_double_layers": 1, "n_heads": 2, "global_conddim": 64,
            "cond_seq_dim": TEXT, "max_seq": 64,
        }),
        ("aura_t5", "AuraT5Tokenizer", "AuraT5Model"), ("pile_t5xl", _T5), latent=(1, 4, 8, 8),
    ),
    "SD 3": Tiny(
        ("SD3", {
            "in_channels": 16, "input_size": None, "patch_size": 2, "depth": 2, "pos_embed_max_size": 64,
            "adm_in_channels": 2 * TEXT, "pos_embed_scaling_factor": None,
            "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
        }),
        ("sd3_clip", "SD3Tokenizer", "sd3_clip"), ("t5xxl", _T5 | {"d_model": 4096, "d_ff": 64, "vocab_size": 4096}),
        options={"clip_l_model_config": _CLIP, "clip_g_model_config": _CLIP},
    ),
    "HunyuanVideo": Tiny(
        ("HunyuanVideo", _HUNYUAN | {"vec_in_dim": TEXT, "guidance_embed": True}),
        ("hunyuan_video", "HunyuanVideoTokenizer", "hunyuan_video_clip"),
        ("llama", _LLM | {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 4}), latent=(1, 16, 1, 8, 8),
        options={"clip_l_model_config": _CLIP},
    ),
    "HunyuanImage 2.1": Tiny(
        ("HunyuanImage21", _HUNYUAN | {"in_channels": 64, "out_channels": 64, "vec_in_dim": None, "patch_size": [1, 1], "axes_dim": [16, 16]}),
        ("hunyuan_image", "HunyuanImageTokenizer", "te"),
        ("qwen25_7b", _LLM | {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 4}), latent=(1, 64, 8, 8),
        arguments={"byt5": False},
    ),
    "LTXV": Tiny(
        ("LTXV", {
            "image_model": "ltxv", "in_channels": 128, "cross_attention_dim": TEXT, "attention_head_dim": 64, "num_attention_heads": 2,
            "caption_channels": TEXT, "num_layers": 2,
        }),
        ("lt", "LTXVT5Tokenizer", "ltxv_te"), ("t5xxl", _T5), latent=(1, 128, 1, 4, 4),
    ),
}  # fmt: skip

# Their vocabulary and networks take 15 s to make.
SLOW = ("Qwen-Image", "HunyuanImage 2.1")


def can_be_made(family: str) -> bool:
    """Whether the host has the classes of a family, and its tokenizer works."""
    import importlib

    module, tokenizer, _ = TINY[family].text
    text = importlib.import_module(f"comfy.text_encoders.{module}")
    doubtful = {
        "HunyuanVideoTokenizer": lambda: text.LLAMA3Tokenizer(),
        "Flux2Tokenizer": lambda: text.Mistral3Tokenizer(tokenizer_data={"tekken_model": tekken()}),
    }
    return hasattr(text, tokenizer) and (tokenizer not in doubtful or _keeps_spaces(doubtful[tokenizer]))


def _keeps_spaces(make: Callable[[], Any]) -> bool:
    """ComfyUI 0.3.75 reads Llama's and Mistral's tokenizers through transformers, whose version 5 fails, or loses the spaces between words."""
    try:
        tokenizer = make()
    except TypeError:
        return False
    return tokenizer.tokenize_with_weights("a b") != tokenizer.tokenize_with_weights("ab")


@functools.cache
def tekken() -> bytes:
    """A vocabulary in Mistral's format: bytes, and a few words with what they are merged from."""
    words = [
        word
        for text in ("zebra", "house", "photo", "of", "teapot", "table", "on", "park")
        for word in (text, f" {text}")
    ]
    tokens = [bytes([n]) for n in range(256)] + [word[:n].encode() for word in words for n in range(2, len(word) + 1)]
    special = [
        "<unk>",
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        *(f"<{n}>" for n in range(5, 11)),
        "<pad>",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
    ]
    tokens = list(dict.fromkeys(tokens))
    return json.dumps({
        "config": {"default_vocab_size": len(tokens) + len(special), "default_num_special_tokens": len(special), "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+"},
        "vocab": [{"rank": n, "token_bytes": base64.b64encode(token).decode()} for n, token in enumerate(tokens)],
        "special_tokens": [{"rank": n, "token_str": token} for n, token in enumerate(special)],
    }).encode()  # fmt: skip


def tiny(family: str, **text: Any) -> tuple[Any, Any, tuple[int, ...]]:
    """MODEL, CLIP and the shape of a latent; `text`: arguments of the function that makes the text encoder."""
    recipe = TINY[family]
    torch.manual_seed(0)
    with torch.inference_mode():
        return _model(recipe), _clip(recipe, **text), recipe.latent


def _model(recipe: Tiny) -> Any:
    import comfy.model_patcher
    import comfy.supported_models

    name, values = recipe.config
    model = getattr(comfy.supported_models, name)({**values, **_newer_values(name)}).get_model({})
    randomise(model.diffusion_model, 0.1)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def _newer_values(name: str) -> dict[str, Any]:
    """Values that newer hosts want."""
    from comfy.ldm.chroma.model import ChromaParams
    from comfy.ldm.hunyuan_video.model import HunyuanVideoParams

    params, newer = {
        "Chroma": (ChromaParams, {"txt_ids_dims": [], "vec_in_dim": None}),
        "HunyuanVideo": (HunyuanVideoParams, {"meanflow_sum": False}),
        "HunyuanImage21": (HunyuanVideoParams, {"meanflow_sum": False}),
    }.get(name, (None, {}))
    return {key: value for key, value in newer.items() if key in params.__dataclass_fields__}


def _clip(recipe: Tiny, **arguments: Any) -> Any:
    import importlib

    import comfy.sd
    import comfy.supported_models_base

    module, tokenizer, encoder = recipe.text
    text = importlib.import_module(f"comfy.text_encoders.{module}")
    made = getattr(text, encoder)
    name, values = recipe.encoder
    target = comfy.supported_models_base.ClipTarget(
        getattr(text, tokenizer), made if isinstance(made, type) else made(**recipe.arguments | arguments)
    )
    data = {} if recipe.spiece is None else {"spiece_model": sentence_pieces(**recipe.spiece)}
    if recipe.tekken:
        data = {"tekken_model": tekken()}
    clip = comfy.sd.CLIP(
        target, parameters=1, tokenizer_data=data, model_options={f"{name}_model_config": values, **recipe.options}
    )
    randomise(clip.cond_stage_model, 1.0)
    return clip


@functools.cache
def sentence_pieces(**options: Any) -> bytes:
    """A SentencePiece model of 500 pieces of everyday captions, in which zebra is no piece."""
    import sentencepiece

    from fmn_core.concepts.templates import everyday_captions

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*everyday_captions()] * 4), model_writer=model, vocab_size=500, hard_vocab_limit=False, minloglevel=2,
        character_coverage=1.0, required_chars="abcdefghijklmnopqrstuvwxyz*|", **options,
    )  # fmt: skip
    return model.getvalue()


def randomise(module: torch.nn.Module, vectors: float) -> None:
    """Random weights of a size that keeps activations finite; vectors, such as those of norms, have this standard deviation."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.data = torch.randn(parameter.shape) * (
                parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else vectors
            )

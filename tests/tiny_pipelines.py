"""Random diffusers pipelines of SDXL's and SD 2.x's make, a few hundred thousand weights, and the host's twins of them."""

from __future__ import annotations

from typing import Any

import torch

from tools import comfy_host

TEXT_L = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT_G = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT_H = TEXT_G | {"num_hidden_layers": 4}


def tokenizer(pad: str):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(comfy_host.root() / "comfy" / "sd1_tokenizer"), pad_token=pad)


def text_encoder(kind: str, sizes: dict[str, int], activation: str):
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=49408, projection_dim=sizes["hidden_size"], hidden_act=activation, eos_token_id=49407, **sizes
    )
    return getattr(transformers, kind)(config)


def unet(context: int, pooled: int | None):
    from diffusers import UNet2DConditionModel

    sdxl: dict[str, Any] = {}
    if pooled:
        sdxl = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": pooled + 6 * 256,
        }
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=context,
        attention_head_dim=4,
        use_linear_projection=True,
        **sdxl,
    )


def vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
    )


def schedule(prediction: str):
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction, steps_offset=1
    )


def in_half_precision(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that half precision holds exactly, because the host keeps its text encoders so."""
    for parameter in module.parameters():
        parameter.data = (parameter.data * 2).half().float()
    return module


def wider(sizes: dict[str, int], scale: int) -> dict[str, int]:
    """Sizes of a text encoder `scale` times as wide."""
    return sizes | {name: scale * sizes[name] for name in ("hidden_size", "intermediate_size")}


def sdxl(scale: int = 1):
    """A StableDiffusionXLPipeline with random weights, its text encoders `scale` times as wide as TEXT_L and TEXT_G."""
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(0)
    first, second = wider(TEXT_L, scale), wider(TEXT_G, scale)
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=in_half_precision(text_encoder("CLIPTextModel", first, "quick_gelu")),
        text_encoder_2=in_half_precision(text_encoder("CLIPTextModelWithProjection", second, "gelu")),
        tokenizer=tokenizer("<|endoftext|>"),
        tokenizer_2=tokenizer("!"),
        unet=in_half_precision(unet(first["hidden_size"] + second["hidden_size"], second["hidden_size"])),
        scheduler=schedule("epsilon"),
        add_watermarker=False,
    )


def sd2():
    """A StableDiffusionPipeline of SD 2.x's make: padding with 0, v-prediction."""
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(1)
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=in_half_precision(text_encoder("CLIPTextModel", TEXT_G, "gelu")),
        tokenizer=tokenizer("!"),
        unet=in_half_precision(unet(TEXT_G["hidden_size"], None)),
        scheduler=schedule("v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


# --- the host's twins -------------------------------------------------------------------------------------------------


def host_model(host: Any, pipeline: Any, kind: str, prediction: str) -> Any:
    """MODEL with the pipeline's UNet, in the host's class of that kind (SDXL or BaseModel)."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.utils

    config = {
        "image_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "channel_mult": [1, 2],
        "num_res_blocks": [1, 1],
        "transformer_depth": [0, 1],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [0, 0, 1, 1],
        "num_heads": 4,
        "context_dim": pipeline.unet.config.cross_attention_dim,
        "use_linear_in_transformer": True,
        "use_spatial_transformer": True,
        "legacy": False,
    }
    if kind == "SDXL":
        config |= {
            "num_classes": "sequential",
            "adm_in_channels": pipeline.unet.config.projection_class_embeddings_input_dim,
        }
    sampling = {"linear_start": 0.00085, "linear_end": 0.012}
    model_config = host.MiniatureConfig({"unet": config, "sampling": sampling, "scale_factor": 0.18215})
    model_config.set_inference_dtype(torch.float32, None)
    model_type = getattr(comfy.model_base.ModelType, prediction)
    model = getattr(comfy.model_base, kind)(model_config, model_type=model_type)
    names = comfy.utils.unet_to_diffusers(config)
    theirs = pipeline.unet.state_dict()
    model.diffusion_model.load_state_dict({names[k]: v for k, v in theirs.items()})
    return comfy.model_patcher.ModelPatcher(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


def host_clip(pipeline: Any, kind: str, scale: int = 1) -> Any:
    """CLIP with the pipeline's text encoders; kind is SDXL or SD2, scale that of `sdxl`.

    The host keeps SD 2.x's last layer and does not use what it gives; diffusers does not keep it.
    """
    import comfy.sd
    import comfy.sdxl_clip
    import comfy.supported_models_base
    import comfy.text_encoders.sd2_clip as sd2_clip

    tokens, model = {
        "SDXL": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
        "SD2": (sd2_clip.SD2Tokenizer, sd2_clip.SD2ClipModel),
    }[kind]
    options = {f"clip_{name}_model_config": wider(sizes, scale) for name, sizes in zip("lgh", (TEXT_L, TEXT_G, TEXT_H))}
    target = comfy.supported_models_base.ClipTarget(tokens, model)
    clip = comfy.sd.CLIP(target, parameters=1, model_options=options)
    inner = clip.cond_stage_model
    if kind == "SDXL":
        _load(inner.clip_l, pipeline.text_encoder)
        _load(inner.clip_g, pipeline.text_encoder_2)
    else:
        _load(inner.clip_h, pipeline.text_encoder)
    return clip


def _load(encoder: Any, module: torch.nn.Module) -> None:
    state = {k.removeprefix("text_model."): v for k, v in module.state_dict().items()}
    state = {k if k.startswith("text_projection") else f"text_model.{k}": v for k, v in state.items()}
    missing, unexpected = encoder.load_sd(state)
    allowed = ("text_projection", "text_model.encoder.layers.3.")
    assert not unexpected and all(k.startswith(allowed) for k in missing)
    for name, parameter in encoder.transformer.named_parameters():
        if name in missing:
            torch.nn.init.ones_(parameter)

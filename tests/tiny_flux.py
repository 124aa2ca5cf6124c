"""A random FLUX.1 of the host's own classes: MODEL, and a CLIP of T5 and CLIP-L."""

from __future__ import annotations

from typing import Any

import torch


def flux(context: int = 512, pooled: int = 128, device: torch.device | str = "cpu") -> tuple[Any, Any]:
    """MODEL and CLIP with a context and a pooled embedding of these widths; the MODEL computes on a device."""
    torch.manual_seed(0)
    with torch.inference_mode():
        return _model(context, pooled, torch.device(device)), _clip(context, pooled)


def _model(context: int, pooled: int, device: torch.device) -> Any:
    import comfy.model_patcher
    import comfy.supported_models
    from comfy.ldm.flux.model import FluxParams

    newer = {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else {}
    config = comfy.supported_models.Flux(
        {
            "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": pooled,
            "context_in_dim": context, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
            "axes_dim": [8, 12, 12], "theta": 10000, "qkv_bias": True, "guidance_embed": True, **newer,
        }
    )  # fmt: skip
    model = config.get_model({})
    _randomise(model.diffusion_model, 0.1)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


def _clip(context: int, pooled: int) -> Any:
    import comfy.sd
    import comfy.supported_models_base
    import comfy.text_encoders.flux as text

    options = {
        "t5xxl_model_config": {"d_model": context, "d_ff": 2 * context, "d_kv": 16, "num_heads": 4, "num_layers": 2},
        "clip_l_model_config": {
            "hidden_size": pooled, "intermediate_size": 2 * pooled, "num_hidden_layers": 2, "num_attention_heads": 4,
        },
    }  # fmt: skip
    target = comfy.supported_models_base.ClipTarget(text.FluxTokenizer, text.flux_clip())
    clip = comfy.sd.CLIP(target, parameters=1, model_options=options)
    _randomise(clip.cond_stage_model, 1.0)
    return clip


def _randomise(module: torch.nn.Module, vectors: float) -> None:
    """Random weights of a size that keeps activations finite; vectors, such as those of norms, have this standard deviation."""
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape) * (parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else vectors)

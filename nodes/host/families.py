"""Recognises a MODEL's family by the host's classes and configuration, for transformers with the table in `transformers`."""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.utils
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel

from ...fmn_core.errors import ForgetError
from .transformers import FAMILIES, transformer_family

_XL_CONTEXT_WIDTH, _SD2_CONTEXT_WIDTH = 2048, 1024


def require_unet(patcher: Any) -> Any:
    """Returns the UNet inside a MODEL.

    Raises
    ------
    ForgetError
        The MODEL has no UNet with cross-attention: it is of another family.
    """
    unet = getattr(getattr(patcher, "model", None), "diffusion_model", None)
    if not isinstance(unet, UNetModel) or not any(name.endswith("attn2") for name, _ in unet.named_modules()):
        class_name = type(unet).__name__ if unet is not None else type(patcher).__name__
        raise ForgetError(
            f"Expected a Stable Diffusion 1.x, 2.x or XL model (a UNet with cross-attention), got {class_name}. Load one of these; "
            f"of transformers, Forget Concept knows {', '.join(family.name for family in FAMILIES)}."
        )
    return unet


def require_editable(patcher: Any) -> None:
    """Raises ForgetError on a MODEL whose text entries the pack does not know."""
    if transformer_family(patcher) is None:
        require_unet(patcher)


def unet_blocks(unet: Any) -> list[torch.nn.Module]:
    """Lists the residual and transformer blocks of a UNet."""
    return [m for m in unet.modules() if isinstance(m, (ResBlock, BasicTransformerBlock))]


def diffusers_names(patcher: Any) -> dict[str, str]:
    """Maps the diffusers path of every UNet weight to its path in the host, both without the ending `.weight`."""
    host_names = comfy.utils.unet_to_diffusers(patcher.model.model_config.unet_config)
    # The host lists SDXL's embedding of sizes and unCLIP's embedding of images under both names; diffusers has one for each.
    is_unclip = isinstance(patcher.model, comfy.model_base.SD21UNCLIP)
    unused_prefix = "add_embedding." if is_unclip else "class_embedding."
    weights = [k for k in host_names if k.endswith(".weight") and not k.startswith(unused_prefix)]
    return {k.removesuffix(".weight"): host_names[k].removesuffix(".weight") for k in weights}


def takes_pooled(patcher: Any) -> bool:
    """Whether a MODEL is conditioned on a pooled text embedding besides the context, as SDXL is."""
    return getattr(patcher.model, "adm_channels", 0) > 0


def pooled_layer(patcher: Any) -> tuple[str, str] | None:
    """The layer, by its name in diffusers, whose first columns read the pooled text embedding; None where the MODEL has none.

    SDXL and its refiner have one. unCLIP has the same layer, which reads an embedding of pictures.
    """
    reads_text = isinstance(patcher.model, (comfy.model_base.SDXL, comfy.model_base.SDXLRefiner))
    return ("add_embedding", "linear_1") if reads_text else None


def predicts_v(patcher: Any) -> bool:
    """Whether a MODEL predicts v instead of the noise."""
    return patcher.model.model_type == comfy.model_base.ModelType.V_PREDICTION


def native_guidance(patcher: Any) -> float | None:
    """The scale of classifier-free guidance that a MODEL is sampled with; None where any will do.

    FLUX.1 has its guidance built in. The miniature FLUX has not, and states so in its configuration.
    """
    family = transformer_family(patcher)
    return getattr(patcher.model.model_config, "guidance", None if family is None else family.guidance)


def native_latent_side(patcher: Any, context_width: int) -> int:
    """Side, in latent pixels, of the square that a MODEL was trained on.

    128 for SDXL and transformers, 96 for SD 2.x with v-prediction, otherwise 64. A miniature's configuration states its own side.

    Parameters
    ----------
    context_width
        Width d of the text conditioning.
    """
    own = getattr(patcher.model.model_config, "latent_side", None)
    if own is not None:
        return own
    if context_width == _XL_CONTEXT_WIDTH or transformer_family(patcher):
        return 128
    return 96 if context_width == _SD2_CONTEXT_WIDTH and predicts_v(patcher) else 64

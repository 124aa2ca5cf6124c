"""MODEL, CLIP and VAE: their weights as sampling would use them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import comfy.lora
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd1_clip
import comfy.utils
import folder_paths
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel

from ...fmn_core.errors import ForgetError
from ...fmn_core.model.lazy import LazySequence
from ...fmn_core.model.transfer import read

try:
    from comfy.quant_ops import QuantizedTensor
except ImportError:  # older hosts
    QuantizedTensor = ()


def require_unet(patcher: Any) -> Any:
    """The UNet inside a MODEL; raises ForgetError when there is none with cross-attention."""
    unet = getattr(getattr(patcher, "model", None), "diffusion_model", None)
    if not isinstance(unet, UNetModel) or not any(name.endswith("attn2") for name, _ in unet.named_modules()):
        kind = type(unet).__name__ if unet is not None else type(patcher).__name__
        raise ForgetError(
            f"Expected a Stable Diffusion 1.x, 2.x or XL model (a UNet with cross-attention), got {kind}. Load one of these."
        )
    return unet


def load(*patchers: Any) -> None:
    """Brings models to their compute devices, as sampling does: in inference mode.

    Outside of it, a parameter made in inference mode that is moved comes out neither an inference tensor nor one that autograd takes.
    """
    with torch.inference_mode():
        comfy.model_management.load_models_gpu(list(patchers))


def diffusers_names(patcher: Any) -> dict[str, str]:
    """Diffusers path -> host path of every UNet weight, without the ending `.weight`."""
    names = comfy.utils.unet_to_diffusers(patcher.model.model_config.unet_config)
    # The host lists the embedding of SDXL's sizes and of unCLIP's pictures under both names; each has one in diffusers.
    other = "add_embedding." if isinstance(patcher.model, comfy.model_base.SD21UNCLIP) else "class_embedding."
    weights = [k for k in names if k.endswith(".weight") and not k.startswith(other)]
    return {k.removesuffix(".weight"): names[k].removesuffix(".weight") for k in weights}


def quantisation(weight: torch.Tensor) -> str:
    """What a weight is quantised to, such as the host's QuantizedTensor or GGUF's GGMLTensor; empty for plain numbers."""
    if isinstance(weight, QuantizedTensor) or hasattr(weight, "tensor_type"):
        return type(weight).__name__
    return "" if weight.is_floating_point() else str(weight.dtype)


def require_floats(unet: Any) -> None:
    """Raises ForgetError, naming the weight, on a UNet with quantised weights, which autograd cannot go through."""
    for name, weight in unet.named_parameters():
        _check_floats(name, weight)


def _check_floats(name: str, weight: torch.Tensor) -> None:
    kind = quantisation(weight)
    if kind:
        scaled = " Newer ComfyUI loads fp8 with scales as QuantizedTensor too." if kind == "QuantizedTensor" else ""
        raise ForgetError(
            f"Expected weights in fp32, bf16, fp16 or fp8, got {kind} in {name}. Load the model in one of these.{scaled}"
        )


def _floats(name: str, weight: torch.Tensor) -> torch.Tensor:
    _check_floats(name, weight)
    return weight.float()


def effective_weights(
    patcher: Any, keys: list[str], device: torch.device | str | None = "cpu"
) -> Sequence[torch.Tensor]:
    """Weights as sampling would use them, the user's own patches applied: float32 copies, each made when it is asked for.

    `device`: where to; None: where each weight is.
    """
    return LazySequence(len(keys), lambda n: _effective_weight(keys[n], device, *_weight_and_patches(patcher, keys[n])))


def _weight_and_patches(patcher: Any, key: str) -> list[Any]:
    """One entry of the host's get_key_patches: (weight before patches, its conversion to numbers), then the patches.

    On newer hosts get_key_patches raises AttributeError on models with quantised layers, whose scales it takes for weights.
    """
    weight, _, convert = comfy.model_patcher.get_key_weight(patcher.model, key)
    if key in patcher.backup:
        weight = patcher.backup[key].weight
    if key in patcher.hook_backup:
        weight = patcher.hook_backup[key][0]
    return [(weight, convert or (lambda weight, **options: weight)), *patcher.patches.get(key, [])]


def _effective_weight(key: str, device: Any, original: tuple, *patches: tuple) -> torch.Tensor:
    weight, convert = original
    device = weight.device if device is None else device
    weight = weight.detach().to(device, copy=True)
    # The scale of an fp8 weight is multiplied in float32; a QuantizedTensor knows its own way back.
    weight = convert(weight if isinstance(weight, QuantizedTensor) else _floats(key, weight), inplace=True)
    weight = _floats(key, weight)
    if not patches:
        return weight
    return comfy.lora.calculate_weight(patches, weight, key).to(device, torch.float32)


def key_weights(patcher: Any) -> Sequence[torch.Tensor]:
    """The attn2 key weights of a MODEL in forward order, where they are, for its fingerprint."""
    names = [name for name, _ in require_unet(patcher).named_modules() if name.endswith("attn2.to_k")]
    return effective_weights(patcher, [f"diffusion_model.{name}.weight" for name in names], None)


def token_embedding(clip: Any, encoder: str) -> torch.nn.Embedding:
    """The token embedding of one of a CLIP's text encoders, by the name that its tokenizer has ("l", "g", "h")."""
    return getattr(clip.cond_stage_model, f"clip_{encoder}").transformer.get_input_embeddings()


def spelled_tokens(clip: Any) -> dict[int, str]:
    """Every token of a CLIP's vocabulary as its tokenizer spells it: a word's last token ends in "</w>"."""
    name = next(iter(clip.tokenize("")))
    return dict(getattr(clip.tokenizer, f"clip_{name}").inv_vocab)


@contextlib.contextmanager
def first_rows(clip: Any, rows: int):
    """A CLIP's text encoders stop after so many rows of each chunk; what these hold does not change, as the encoders are causal."""

    def shorten(module, args, kwargs):
        mask = kwargs.get("mask")
        return (args[0][:, :rows], *args[1:]), {**kwargs, "mask": mask[..., :rows, :rows] if mask is not None else None}

    model, handles = clip.cond_stage_model, []
    for name in clip.tokenize(""):
        encoder = getattr(model, f"clip_{name}").transformer.text_model.encoder
        handles.append(encoder.register_forward_pre_hook(shorten, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def standard_tokenizer() -> Any:
    """The tokenizer of SD 1.x, for texts that no CLIP is connected to yet."""
    return comfy.sd1_clip.SD1Tokenizer(embedding_directory=folder_paths.get_folder_paths("embeddings"))


def vae_key(vae: Any) -> list[float]:
    """What tells VAEs apart: the norms of their weights."""
    weights = [w for w in vae.first_stage_model.state_dict().values() if w.is_floating_point()]
    return [float(f"{norm:.6g}") for norm in read([w.float().norm() for w in weights])]


def unet_blocks(unet: Any) -> list[torch.nn.Module]:
    """Residual and transformer blocks of a UNet."""
    return [m for m in unet.modules() if isinstance(m, (ResBlock, BasicTransformerBlock))]

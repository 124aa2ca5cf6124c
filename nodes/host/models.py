"""The weights of a MODEL, CLIP and VAE as sampling uses them, and their vocabularies."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sd1_clip
import folder_paths
import torch

from ...fmn_core.errors import ForgetError
from ...fmn_core.model.entries import CONTEXT
from ...fmn_core.model.lazy import LazySequence
from ...fmn_core.model.transfer import read
from .families import require_unet
from .transformers import transformer_entries, transformer_family

try:
    from comfy.quant_ops import QuantizedTensor
except ImportError:  # older hosts
    QuantizedTensor = ()


def load(*patchers: Any) -> None:
    """Loads models onto their compute devices in inference mode, as sampling does.

    Notes
    -----
    A parameter that was made in inference mode and is moved outside of it ends up neither an inference tensor nor one
    that autograd accepts.
    """
    with torch.inference_mode():
        comfy.model_management.load_models_gpu(list(patchers))


def quantisation(weight: torch.Tensor) -> str:
    """Names the format of a quantised weight, such as QuantizedTensor or GGUF's GGMLTensor; empty for plain floats."""
    if isinstance(weight, QuantizedTensor) or hasattr(weight, "tensor_type"):
        return type(weight).__name__
    return "" if weight.is_floating_point() else str(weight.dtype)


def require_floats(unet: Any) -> None:
    """Raises ForgetError, naming the weight, on a UNet with quantised weights: autograd cannot pass through these."""
    for name, weight in unet.named_parameters():
        _check_floats(name, weight)


def _check_floats(name: str, weight: torch.Tensor) -> None:
    kind = quantisation(weight)
    if kind:
        scaled = " Newer ComfyUI loads fp8 with scales as QuantizedTensor too." if kind == "QuantizedTensor" else ""
        raise ForgetError(
            f"Expected weights in fp32, bf16, fp16 or fp8, got {kind} in {name}. Load the model in one of these.{scaled}"
        )


def _as_float32(name: str, weight: torch.Tensor) -> torch.Tensor:
    _check_floats(name, weight)
    return weight.float()


def effective_weights(
    patcher: Any, keys: list[str], device: torch.device | str | None = "cpu"
) -> Sequence[torch.Tensor]:
    """Weights of a MODEL with the user's own patches applied, as float32 copies.

    Parameters
    ----------
    keys
        The host's names of the weights.
    device
        Where to copy the weights; None leaves each on its layer's device.

    Returns
    -------
    One tensor for each key. Each is computed only when it is indexed.
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
    weight = convert(weight if isinstance(weight, QuantizedTensor) else _as_float32(key, weight), inplace=True)
    weight = _as_float32(key, weight)
    if not patches:
        return weight
    return comfy.lora.calculate_weight(patches, weight, key).to(device, torch.float32)


def run_modules(patcher: Any, paths: Sequence[str], rows: torch.Tensor) -> torch.Tensor:
    """Runs modules of a MODEL's network one after another on rows (n, dim), in the precision that it computes in."""
    load(patcher)
    model = patcher.model
    with torch.inference_mode():
        rows = rows.to(patcher.load_device, model.manual_cast_dtype or model.get_dtype())
        for path in paths:
            rows = model.diffusion_model.get_submodule(path)(rows)
    return rows


def key_weights(patcher: Any) -> Sequence[torch.Tensor]:
    """Effective attn2 key weights of a MODEL in forward order, or what reads a transformer's text rows, for the fingerprint.

    Each is on its layer's device.
    """
    family = transformer_family(patcher)
    if family is not None:
        rows = [entry.path for entry in transformer_entries(patcher, family) if entry.reads == CONTEXT]
        return effective_weights(patcher, [f"diffusion_model.{path}.weight" for path in rows], None)
    names = [name for name, _ in require_unet(patcher).named_modules() if name.endswith("attn2.to_k")]
    return effective_weights(patcher, [f"diffusion_model.{name}.weight" for name in names], None)


def token_embedding(clip: Any, encoder: str) -> torch.nn.Embedding:
    """Token embedding of one text encoder of a CLIP, by the encoder's name in the tokenizer ("l", "g", "h", "t5xxl")."""
    return part_of(clip.cond_stage_model, encoder).transformer.get_input_embeddings()


def part_of(whole: Any, encoder: str) -> Any:
    """The text encoder, or the tokenizer, of that name within a CLIP's; None where there is none."""
    return getattr(whole, f"clip_{encoder}", None) or getattr(whole, encoder, None)


def loaded_encoders(clip: Any) -> list[str]:
    """Names of a CLIP's text encoders. The tokenizer may have more: that of SDXL's refiner also gives tokens for CLIP-L."""
    model, names = getattr(clip, "cond_stage_model", None), list(clip.tokenize(""))
    return names if model is None else [name for name in names if part_of(model, name) is not None]


def token_spellings(clip: Any) -> dict[int, str]:
    """Spelling of every token of a CLIP's vocabulary; the last token of a word ends in "</w>"."""
    name = loaded_encoders(clip)[0]
    return dict(getattr(clip.tokenizer, f"clip_{name}").inv_vocab)


@contextlib.contextmanager
def limit_encoder_rows(clip: Any, rows: int):
    """Makes a CLIP's text encoders compute only the first `rows` rows of each chunk while the context is open.

    The values of these rows do not change, because the encoders are causal.
    """

    def shorten(module, args, kwargs):
        mask = kwargs.get("mask")
        return (args[0][:, :rows], *args[1:]), {**kwargs, "mask": mask[..., :rows, :rows] if mask is not None else None}

    model, handles = clip.cond_stage_model, []
    for name in loaded_encoders(clip):
        encoder = getattr(model, f"clip_{name}").transformer.text_model.encoder
        handles.append(encoder.register_forward_pre_hook(shorten, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def every_pooled(clip: Any):
    """Collects the pooled output of every chunk that a CLIP encodes while the context is open, which yields their list.

    The host itself returns that of the first chunk alone. Of SDXL's encoders, the pooled output is that of "g".
    """
    names, outputs = loaded_encoders(clip), []
    encoder = getattr(clip.cond_stage_model, f"clip_{'g' if 'g' in names else names[0]}")
    handle = encoder.register_forward_hook(
        lambda module, inputs, output: outputs.append(output[1]) if output[1] is not None else None
    )
    try:
        yield outputs
    finally:
        handle.remove()


def standard_tokenizer() -> Any:
    """The tokenizer of SD 1.x, for texts of nodes without a CLIP."""
    return comfy.sd1_clip.SD1Tokenizer(embedding_directory=folder_paths.get_folder_paths("embeddings"))


def vae_key(vae: Any) -> list[float]:
    """Norms of a VAE's weights, which identify it in cache keys."""
    weights = [w for w in vae.first_stage_model.state_dict().values() if w.is_floating_point()]
    return [float(f"{norm:.6g}") for norm in read([w.float().norm() for w in weights])]

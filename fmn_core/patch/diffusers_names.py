"""A patch of a transformer under the names that diffusers has for its layers."""

from __future__ import annotations

import torch

from ..errors import ForgetError
from .patch import ForgetPatch

# Layers that read text, by the ends of their names in files.
_LAYERS = {
    "txt_in": "context_embedder",
    "context_embedder": "context_embedder",
    "vector_in_in_layer": "time_text_embed.text_embedder.linear_1",
    "y_embedder_mlp_0": "time_text_embed.text_embedder.linear_1",
}
_PREFIX = "lora_unet_"


def diffusers_lora(patch: ForgetPatch) -> dict[str, torch.Tensor]:
    """A patch of FLUX.1, Chroma or SD 3 as the tensors that `load_lora_weights` of its pipeline in diffusers takes.

    Returns
    -------
    `lora_A` (rank, in) and `lora_B` (out, rank) of each layer by their names in diffusers, in float32; alpha is in `lora_B`.

    Raises
    ------
    ForgetError
        On a patch with other layers. Those of Stable Diffusion 1.x, 2.x and XL are loaded as they are.

    Examples
    --------
    >>> pipeline.load_lora_weights(diffusers_lora(load_patch("forget_zebra.safetensors")))
    """
    tensors = {}
    # diffusers 0.35 scales a layer wrongly whose rank is not that of the others.
    common = max((f.rank for f in patch.factors.values()), default=0)
    for name, factors in patch.factors.items():
        layer = _LAYERS.get(name.removeprefix(_PREFIX))
        if layer is None:
            raise ForgetError(
                f"Expected a patch of FLUX.1, Chroma or SD 3, got one with the layer {name}. Give the file of a patch of Stable Diffusion to "
                "load_lora_weights as it is."
            )
        whole = factors.of_rank(common)
        tensors[f"transformer.{layer}.lora_A.weight"] = whole.down.float()
        tensors[f"transformer.{layer}.lora_B.weight"] = whole.up.float() * (whole.alpha / common)
    return tensors

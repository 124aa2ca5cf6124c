"""Loads the miniature Stable Diffusion as native objects of the host."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch

from ...fmn_core.errors import ForgetError

MINIATURE = Path(__file__).resolve().parents[2] / "mini_sd"


class MiniatureConfig(comfy.supported_models_base.BASE):
    """The host's configuration of the miniature, whose architecture is that of Stable Diffusion at a small size.

    Parameters
    ----------
    config
        The content of mini_sd/config.json: `unet`, `sampling`, `scale_factor`, and optional preview colours.
    """

    latent_format = comfy.latent_formats.SD15
    memory_usage_factor = 1.0
    unet_extra_config = {}

    def __init__(self, config: dict[str, Any]):
        self.sampling_settings = config["sampling"]
        self.latent_side = config["unet"]["image_size"]
        super().__init__(config["unet"])
        self.latent_format.scale_factor = config["scale_factor"]
        self.latent_format.latent_rgb_factors = config.get("latent_rgb_factors")
        self.latent_format.latent_rgb_factors_bias = config.get("latent_rgb_bias")
        self.latent_format.taesd_decoder_name = None


class MiniatureTokenizer(comfy.sd1_clip.SDTokenizer):
    """The standard CLIP tokenizer, which expects textual-inversion embeddings of the miniature's width."""

    def __init__(self, embedding_directory=None, tokenizer_data=None, **kwargs):
        width = json.loads((MINIATURE / "config.json").read_text())["text"]["hidden_size"]
        super().__init__(
            embedding_directory=embedding_directory, embedding_size=width, tokenizer_data=tokenizer_data or {}, **kwargs
        )


def load_miniature() -> tuple[Any, Any, Any]:
    """Loads the MODEL, CLIP and VAE of the miniature that ships with this pack.

    Raises
    ------
    ForgetError
        The file of weights is missing or does not open.
    """
    config, parts = read_parts(MINIATURE, ("unet", "text", "vae"))
    return _miniature_model(config, parts["unet"]), _miniature_clip(config, parts["text"]), vae_of(config, parts["vae"])


def read_parts(
    folder: Path, names: tuple[str, ...], files: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """Reads a miniature's configuration and the weights of its parts from its folder in the pack.

    Parameters
    ----------
    names
        Names of the parts, with which the names of their tensors begin.
    files
        Stems of the files of weights; by default one that is called like the folder.

    Raises
    ------
    ForgetError
        A file of weights is missing or does not open.
    """
    weights: dict[str, torch.Tensor] = {}
    for stem in files or (folder.name,):
        weights |= _weights_in(folder / "weights" / f"{stem}.safetensors", f"{folder.name}/weights/{stem}.safetensors")
    parts = {
        name: {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")} for name in names
    }
    return json.loads((folder / "config.json").read_text()), parts


def _weights_in(path: Path, shown: str) -> Any:
    if not path.is_file():
        raise ForgetError(f"Expected {shown} in the pack's folder, found none. Install the pack again.")
    try:
        return comfy.utils.load_torch_file(str(path), safe_load=True)
    except Exception as error:
        raise ForgetError(
            f"Expected weights in {shown}, got a file that does not open ({error}). Install the pack again."
        ) from error


def load_miniature_image_text() -> Any:
    """Loads the miniature's image-text model; raises ForgetError when its files are missing."""
    try:
        from ...mini_sd.image_text import WEIGHTS, MiniatureImageText
    except ImportError as error:
        raise ForgetError(
            "Expected mini_sd/image_text.py in the pack's folder, found none. Install the pack again, or choose a folder."
        ) from error
    if not WEIGHTS.is_file():
        raise ForgetError(
            "Expected mini_sd/weights/clip.safetensors in the pack's folder, found none. Install the pack again, or choose a folder."
        )
    return MiniatureImageText(load_miniature()[1])


def _miniature_model(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    types = comfy.model_base.ModelType
    model_type = types.V_PREDICTION if config["prediction"] == "v" else types.EPS
    make = comfy.model_base.BaseModel
    return model_of(MiniatureConfig(config), weights, lambda c, device: make(c, model_type=model_type, device=device))


def model_of(model_config: Any, weights: dict[str, torch.Tensor], make: Callable[[Any, Any], Any]) -> Any:
    """The MODEL of a miniature in the precision that the host chooses; `make(config, device)` creates the host's model."""
    management, dtypes = comfy.model_management, model_config.supported_inference_dtypes
    device, offload_device = management.get_torch_device(), management.unet_offload_device()
    parameters = sum(w.numel() for w in weights.values())
    dtype = management.unet_dtype(device=device, model_params=parameters, supported_dtypes=dtypes)
    model_config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, dtypes))
    model = make(model_config, offload_device)
    # Newer hosts have other names for some weights of FLUX.
    model.diffusion_model.load_state_dict(model_config.process_unet_state_dict(dict(weights)))
    # The cast comes after loading: with DynamicVRAM the host's layers have no weights before, and take the file's precision.
    model.diffusion_model.to(dtype)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload_device)


def _miniature_clip(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    table = weights["text_model.embeddings.token_embedding.weight"] = token_table(weights, 49408)
    target = comfy.supported_models_base.ClipTarget(
        lambda **kw: comfy.sd1_clip.SD1Tokenizer(tokenizer=MiniatureTokenizer, **kw), comfy.sd1_clip.SD1ClipModel
    )
    options = {"clip_l_model_config": config["text"]}
    embeddings = folder_paths.get_folder_paths("embeddings")
    clip = comfy.sd.CLIP(target, embedding_directory=embeddings, parameters=table.numel(), model_options=options)
    load_text(clip, weights)
    return clip


def load_text(clip: Any, weights: dict[str, torch.Tensor]) -> None:
    """Loads the weights of a text encoder into a CLIP; raises ForgetError where some are missing or of something else."""
    missing, unexpected = clip.load_sd(dict(weights))
    if unexpected or [k for k in missing if "logit_scale" not in k and "text_projection" not in k]:
        raise ForgetError(
            f"Expected the miniature's text encoder, its file misses {missing} and has {unexpected}. Install the pack again."
        )


def token_table(weights: dict[str, torch.Tensor], size: int) -> torch.Tensor:
    """Takes a part's vocabulary out of its weights: the rows of trained tokens, in a table in which every other token is a zero vector."""
    rows, ids = weights.pop("vocabulary.weight"), weights.pop("vocabulary.ids").long()
    table = torch.zeros(size, rows.shape[1], dtype=rows.dtype)
    table[ids] = rows
    return table


def vae_of(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    """The VAE of a miniature's configuration and weights."""
    channels = config["vae"]["z_channels"]
    vae = comfy.sd.VAE(sd=weights, config={"params": {"ddconfig": config["vae"], "embed_dim": channels}})
    # The host does not read it from a configuration that it is given.
    vae.latent_channels = channels
    return vae

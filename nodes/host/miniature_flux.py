"""Loads the miniature FLUX as native objects of the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.sd
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.flux
import folder_paths
import torch
from comfy.ldm.flux.model import FluxParams

from .miniature import load_text, model_of, read_parts, token_table, vae_of

MINIATURE_FLUX = Path(__file__).resolve().parents[2] / "mini_flux"
_T5_VOCABULARY, _CLIP_VOCABULARY = 32128, 49408


class MiniatureFluxConfig(comfy.supported_models.Flux):
    """The host's configuration of the miniature, whose architecture is that of FLUX.1 at a small size.

    Parameters
    ----------
    config
        The content of mini_flux/config.json: `flux`, `sampling`, `latent_scale`, preview colours, and at which side in latent
        pixels and at which guidance it is sampled.
    """

    memory_usage_factor = 1.0

    def __init__(self, config: dict[str, Any]):
        self.sampling_settings = config["sampling"]
        self.latent_side, self.guidance = config["latent_side"], config["guidance"]
        # Newer hosts tell variants of the architecture apart by which positions the text has.
        newer = {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else {}
        super().__init__({**config["flux"], **newer})
        latent_format: Any = comfy.latent_formats.Flux()
        latent_format.scale_factor, latent_format.shift_factor = config["latent_scale"], 0.0
        latent_format.latent_rgb_factors = config["latent_rgb_factors"]
        latent_format.latent_rgb_factors_bias = config["latent_rgb_bias"]
        latent_format.taesd_decoder_name = None
        self.latent_format = latent_format


def load_miniature_flux() -> tuple[Any, Any, Any]:
    """Loads the MODEL, CLIP and VAE of the miniature FLUX that ships with this pack.

    Raises
    ------
    ForgetError
        A file of weights is missing or does not open.
    """
    config, parts = read_parts(MINIATURE_FLUX, ("flux", "t5", "clip", "vae"), ("mini_flux", "vae"))
    model = model_of(MiniatureFluxConfig(config), parts["flux"], lambda c, device: c.get_model({}, device=device))
    return model, _clip(config, parts["t5"], parts["clip"]), vae_of(config, parts["vae"])


def _tokenizer(config: dict[str, Any]) -> type:
    """FLUX.1's tokenizers, for prompts and textual-inversion embeddings of the miniature's length and widths."""
    widths, length = (config["clip"]["hidden_size"], config["t5"]["d_model"]), config["t5_length"]

    class MiniatureFluxTokenizer(comfy.text_encoders.flux.FluxTokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(embedding_directory, {**(tokenizer_data or {}), "t5xxl_min_length": length})
            self.clip_l.embedding_size, self.t5xxl.embedding_size = widths

    return MiniatureFluxTokenizer


def _clip(config: dict[str, Any], t5: dict[str, torch.Tensor], clip: dict[str, torch.Tensor]) -> Any:
    t5["shared.weight"] = token_table(t5, _T5_VOCABULARY)
    clip["text_model.embeddings.token_embedding.weight"] = token_table(clip, _CLIP_VOCABULARY)
    target = comfy.supported_models_base.ClipTarget(_tokenizer(config), comfy.text_encoders.flux.flux_clip())
    options = {"t5xxl_model_config": config["t5"], "clip_l_model_config": config["clip"]}
    embeddings, count = folder_paths.get_folder_paths("embeddings"), sum(w.numel() for w in t5.values())
    whole = comfy.sd.CLIP(target, embedding_directory=embeddings, parameters=count, model_options=options)
    for weights in (t5, clip):
        load_text(whole, weights)
    return whole

"""The adapter through which the method sees a MODEL and a CLIP of the host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ...fmn_core.attention.hooks import checkpointed
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.protocol import PROJECTION_NAMES, CrossAttention
from ...fmn_core.model.tokens import EncodedPrompt
from .. import host
from .text import ComfyText, detached


class ComfyModel(ComfyText):
    """fmn_core's ForgetModel over a MODEL (ModelPatcher) and a CLIP; neither is changed."""

    def __init__(self, patcher: Any, clip: Any):
        self.patcher, self.unet = patcher, host.require_unet(patcher)
        super().__init__(clip)
        self.device = patcher.load_device
        self._loaded = host.LoadedModels([patcher])
        self._modules = dict(self.unet.named_modules())
        self._names = host.diffusers_names(patcher)
        self._layers = self._find_layers()
        width = self.encode([""])[0].context.shape[1]
        wanted = self._context_width()
        if width != wanted:
            raise ForgetError(
                f"Expected a CLIP of width {wanted} for this MODEL, got {width}. Connect the CLIP that belongs to the MODEL."
            )

    def wants_pooled(self) -> bool:
        return getattr(self.patcher.model, "adm_channels", 0) > 0

    # --- layers ---

    def _find_layers(self) -> list[CrossAttention]:
        paths = {}
        for diffusers, comfy in self._names.items():
            if diffusers.endswith(".attn2.to_k"):
                paths[comfy.removesuffix(".to_k")] = diffusers.removesuffix(".to_k")
        layers = []
        for name, module in self._modules.items():
            if name in paths:
                parts = {p: module.get_submodule(p) for p in PROJECTION_NAMES}
                layers.append(CrossAttention(paths[name], module.heads, parts))
        if not layers:
            raise ForgetError(
                "Expected a UNet with cross-attention layers (attn2), found none. Load an SD 1.x, 2.x or XL model."
            )
        return layers

    def cross_attention(self) -> list[CrossAttention]:
        return self._layers

    def linear_layers(self) -> dict[str, torch.nn.Module]:
        kinds = (torch.nn.Linear, torch.nn.Conv2d)
        found = {d: self._modules[c] for d, c in self._names.items() if c in self._modules}
        return {d: m for d, m in found.items() if isinstance(m, kinds)}

    def compute_dtype(self) -> torch.dtype:
        return host.compute_dtype(self.patcher)

    def blocks(self) -> list[torch.nn.Module]:
        return host.unet_blocks(self.unet)

    def weights(
        self, names: Sequence[tuple[str, str]], device: torch.device | str | None = "cpu"
    ) -> Sequence[torch.Tensor]:
        paths = (self._names[".".join(name)] for name in names)
        return host.effective_weights(self.patcher, [f"diffusion_model.{path}.weight" for path in paths], device)

    def _context_width(self) -> int:
        """Width d of the text conditioning that the UNet takes."""
        weight: Any = self._layers[0].projections["to_k"].weight
        return weight.shape[1]

    # --- denoising ---

    def sigmas(self) -> torch.Tensor:
        return self.patcher.get_model_object("model_sampling").sigmas.detach().clone().float().cpu()

    def latent_shape(self) -> tuple[int, int, int]:
        side = self._native_side()
        return self.patcher.model.latent_format.latent_channels, side, side

    def _native_side(self) -> int:
        """128 for SDXL, 96 for the v-prediction SD 2.x, else 64; the miniature's configuration carries its own size."""
        width = self._context_width()
        if width == 2048:
            return 128
        # The host writes 32 into the configuration of every full-size model.
        size = self.patcher.model.model_config.unet_config.get("image_size", 32)
        if size != 32:
            return size
        return 96 if width == 1024 and self._predicts_v() else 64

    def _predicts_v(self) -> bool:
        return getattr(self.patcher.model.model_type, "name", "") == "V_PREDICTION"

    def encode_images(self, images: torch.Tensor, vae: Any = None) -> torch.Tensor:
        with torch.inference_mode():
            latents = vae.encode(images[..., :3])
        return detached(self.patcher.model.process_latent_in(latents))

    def decode_latents(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """Latents in the model's scale -> IMAGE (B, H, W, 3) in 0..1, on the CPU."""
        with torch.inference_mode():
            return detached(vae.decode(self.patcher.model.process_latent_out(latents)))

    def latent_scale(self) -> float:
        """The factor between the VAE's latents and the model's: part of what a cached latent depends on."""
        return float(self.patcher.model.latent_format.scale_factor)

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, prompts: Iterable[EncodedPrompt]) -> torch.Tensor:
        host.check_interrupted()
        self.keep_loaded()
        prompts = list(prompts)
        context = torch.cat([p.context[None] for p in prompts]).to(self.device)
        pooled = [p.pooled for p in prompts if p.pooled is not None]
        model, size = self.patcher.model, {"height": x.shape[-2] * 8, "width": x.shape[-1] * 8}
        pooled_output = torch.cat(pooled).to(self.device) if pooled else None
        conds = model.extra_conds(cross_attn=context, pooled_output=pooled_output, noise=x, device=self.device, **size)
        inputs = {k: c.process_cond(batch_size=x.shape[0], device=self.device).cond for k, c in conds.items()}
        return model.apply_model(x, sigma, **inputs, transformer_options=self._transformer_options(sigma, prompts))

    def _transformer_options(self, sigma: torch.Tensor, prompts: Iterable[EncodedPrompt]) -> dict[str, Any]:
        return dict(self.patcher.model_options.get("transformer_options", {}))

    @contextlib.contextmanager
    def ready_for_gradients(self, text: bool = False):
        """Loads the model, and with `text` the text encoders too, and keeps them loaded and fit for autograd.

        Values stay bit-identical. With `text`, where a pass always goes through the whole UNet, blocks that have to be are recomputed
        already, see recomputed_blocks. Raises ForgetError on quantised weights.
        """
        host.require_floats(self.unet)
        before = self._loaded
        self._loaded = host.LoadedModels([self.patcher, *([self.clip.patcher] if text else [])], for_gradients=True)
        with host.training_mode(), contextlib.ExitStack() as stack:
            if text:
                stack.enter_context(_kept_for_backward(self.clip.cond_stage_model))
            try:
                self._loaded.refresh()
                if text:
                    stack.enter_context(checkpointed(self.recomputed_blocks()))
                yield self
            finally:
                self._loaded.release()
                self._loaded = before

    def recomputed_blocks(self) -> list[torch.nn.Module]:
        """What gradient checkpointing has to recompute in any case: all blocks where a backward pass would keep copies of weights."""
        return self.blocks() if self._loaded.keep_weight_copies() else []

    def keep_loaded(self) -> None:
        self._loaded.refresh()


@contextlib.contextmanager
def _kept_for_backward(text_encoder: torch.nn.Module):
    """Gives layer norms a copy of their input, which the host's CLIP layers then change in place."""
    norms = [m for m in text_encoder.modules() if isinstance(m, torch.nn.LayerNorm)]
    handles = [m.register_forward_pre_hook(lambda module, inputs: (inputs[0].clone(), *inputs[1:])) for m in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

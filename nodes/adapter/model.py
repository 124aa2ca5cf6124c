"""The adapter through which fmn_core uses a MODEL and a CLIP of the host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ...fmn_core.attention.hooks import checkpointed
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.entries import POOLED, TextEntry, attention_entries
from ...fmn_core.model.protocol import PROJECTION_NAMES, CrossAttention
from ...fmn_core.model.tokens import EncodedPrompt
from .. import host
from .text import ComfyText, detached_copy


class ComfyModel(ComfyText):
    """fmn_core's ForgetModel over a MODEL (ModelPatcher) and a CLIP; neither is changed.

    Raises
    ------
    ForgetError
        The MODEL has no UNet with cross-attention, or the CLIP belongs to another family.
    """

    def __init__(self, patcher: Any, clip: Any):
        self.patcher, self.unet = patcher, host.require_unet(patcher)
        super().__init__(clip)
        self.device = patcher.load_device
        self._loaded = host.LoadedModels([patcher])
        self._modules = dict(self.unet.named_modules())
        self._names = host.diffusers_names(patcher)
        self._layers = self._find_layers()
        # Encoded once, because it loads the text encoders, and may push the UNet off a small device.
        self._empty = self.encode([""])[0]
        width, unet_width = self._empty.context.shape[1], self._context_width()
        if width != unet_width:
            raise ForgetError(
                f"Expected a CLIP of width {unet_width} for this MODEL, got {width}. Connect the CLIP that belongs to the MODEL."
            )

    def wants_pooled(self) -> bool:
        """Whether the MODEL takes a pooled text embedding besides the context."""
        return host.takes_pooled(self.patcher)

    # --- layers ---

    def _find_layers(self) -> list[CrossAttention]:
        paths = {}
        for diffusers_path, host_path in self._names.items():
            if diffusers_path.endswith(".attn2.to_k"):
                paths[host_path.removesuffix(".to_k")] = diffusers_path.removesuffix(".to_k")
        layers = []
        for name, module in self._modules.items():
            if name in paths:
                projections = {p: module.get_submodule(p) for p in PROJECTION_NAMES}
                layers.append(CrossAttention(paths[name], module.heads, projections))
        if not layers:
            raise ForgetError(
                "Expected a UNet with cross-attention layers (attn2), found none. Load an SD 1.x, 2.x or XL model."
            )
        return layers

    def cross_attention(self) -> list[CrossAttention]:
        """See ForgetModel.cross_attention."""
        return self._layers

    def text_entries(self) -> list[TextEntry]:
        """See ForgetModel.text_entries."""
        entries = attention_entries(self._layers)
        layer, pooled = host.pooled_layer(self.patcher), self._empty.pooled
        if layer is not None and pooled is not None:
            entries.append(TextEntry(*layer, POOLED, pooled.shape[1]))
        return entries

    def linear_layers(self) -> dict[str, torch.nn.Module]:
        """See ForgetModel.linear_layers."""
        modules = ((name, self._modules.get(host_path)) for name, host_path in self._names.items())
        return {name: m for name, m in modules if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))}

    def compute_dtype(self) -> torch.dtype:
        """See ForgetModel.compute_dtype."""
        return host.compute_dtype(self.patcher)

    def blocks(self) -> list[torch.nn.Module]:
        """See ForgetModel.blocks."""
        return host.unet_blocks(self.unet)

    def weights(
        self, names: Sequence[tuple[str, str]], device: torch.device | str | None = "cpu"
    ) -> Sequence[torch.Tensor]:
        """See ForgetModel.weights."""
        paths = (self._names[".".join(name)] for name in names)
        return host.effective_weights(self.patcher, [f"diffusion_model.{path}.weight" for path in paths], device)

    def _context_width(self) -> int:
        """Width d of the text conditioning that the UNet takes."""
        weight: Any = self._layers[0].projections["to_k"].weight
        return weight.shape[1]

    # --- denoising ---

    def sigmas(self) -> torch.Tensor:
        """See ForgetModel.sigmas."""
        return self.patcher.get_model_object("model_sampling").sigmas.detach().clone().float().cpu()

    def latent_shape(self) -> tuple[int, int, int]:
        """See ForgetModel.latent_shape."""
        side = host.native_latent_side(self.patcher, self._context_width())
        return self.patcher.model.latent_format.latent_channels, side, side

    def encode_images(self, images: torch.Tensor, vae: Any = None) -> torch.Tensor:
        """See ForgetModel.encode_images."""
        with torch.inference_mode():
            latents = vae.encode(images[..., :3])
        return detached_copy(self.patcher.model.process_latent_in(latents))

    def decode_latents(self, vae: Any, latents: torch.Tensor) -> torch.Tensor:
        """Decodes latents (B, C, h, w) in the model's scale into an IMAGE (B, H, W, 3) in 0..1, on the CPU."""
        with torch.inference_mode():
            return detached_copy(vae.decode(self.patcher.model.process_latent_out(latents)))

    def latent_scale(self) -> float:
        """Factor from the VAE's latents to the model's, which is part of the key of cached latents."""
        return float(self.patcher.model.latent_format.scale_factor)

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, prompts: Iterable[EncodedPrompt]) -> torch.Tensor:
        """See ForgetModel.denoise."""
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
        """Loads the model and keeps it loaded, accepted by autograd, while the context is open.

        The values of weights stay bit-identical.

        Parameters
        ----------
        text
            Whether gradients pass through the text encoders too. Every pass then runs through the whole UNet, so the
            blocks of recomputed_blocks are checkpointed here.

        Raises
        ------
        ForgetError
            The UNet has quantised weights.
        """
        host.require_floats(self.unet)
        before = self._loaded
        self._loaded = host.LoadedModels([self.patcher, *([self.clip.patcher] if text else [])], for_gradients=True)
        with host.training_mode(), contextlib.ExitStack() as stack:
            if text:
                stack.enter_context(_copied_norm_inputs(self.clip.cond_stage_model))
            try:
                self._loaded.refresh()
                if text:
                    stack.enter_context(checkpointed(self.recomputed_blocks()))
                yield self
            finally:
                self._loaded.release()
                self._loaded = before

    def recomputed_blocks(self) -> list[torch.nn.Module]:
        """Blocks that gradient checkpointing always recomputes: all of them where a backward pass would keep copies of weights."""
        return self.blocks() if self._loaded.keep_weight_copies() else []

    def keep_loaded(self) -> None:
        """Loads the model again if the host offloaded it."""
        self._loaded.refresh()


@contextlib.contextmanager
def _copied_norm_inputs(text_encoder: torch.nn.Module):
    """Gives layer norms a copy of their input for the backward pass, because the host's CLIP layers change the input in place."""
    norms = [m for m in text_encoder.modules() if isinstance(m, torch.nn.LayerNorm)]
    handles = [m.register_forward_pre_hook(lambda module, inputs: (inputs[0].clone(), *inputs[1:])) for m in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

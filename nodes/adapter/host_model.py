"""What fmn_core needs of any MODEL besides its layers: predictions of x0, with gradients, and latents."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch

from ...fmn_core.attention.hooks import checkpointed
from ...fmn_core.model.tokens import EncodedPrompt
from .. import host
from .text import detached_copy


class HostModel:
    """The parts of ForgetModel that are alike for all MODELs of the host."""

    patcher: Any
    clip: Any
    device: torch.device

    def use_model(self, patcher: Any) -> None:
        """Sets the MODEL, which is not changed."""
        self.patcher, self.device = patcher, patcher.load_device
        self._loaded = host.LoadedModels([patcher])

    def compute_dtype(self) -> torch.dtype:
        """See ForgetModel.compute_dtype."""
        return host.compute_dtype(self.patcher)

    def blocks(self) -> list[torch.nn.Module]:
        """See ForgetModel.blocks."""
        raise NotImplementedError

    def sigmas(self) -> torch.Tensor:
        """See ForgetModel.sigmas."""
        return self.patcher.get_model_object("model_sampling").sigmas.detach().clone().float().cpu()

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
        prompts = list(prompts)
        return self._predict(x, sigma, prompts, self._transformer_options(sigma, prompts))

    def _predict(
        self, x: torch.Tensor, sigma: torch.Tensor, prompts: list[EncodedPrompt], options: dict[str, Any]
    ) -> torch.Tensor:
        """x0 as the host's model predicts it from its own input at its own noise level."""
        host.check_interrupted()
        self.keep_loaded()
        context = torch.stack([p.whole_context for p in prompts]).to(self.device)
        pooled = [p.pooled for p in prompts if p.pooled is not None]
        model, size = self.patcher.model, {"height": x.shape[-2] * 8, "width": x.shape[-1] * 8}
        pooled_output = torch.cat(pooled).to(self.device) if pooled else None
        conds = model.extra_conds(cross_attn=context, pooled_output=pooled_output, noise=x, device=self.device, **size)
        inputs = {k: c.process_cond(batch_size=x.shape[0], device=self.device).cond for k, c in conds.items()}
        return model.apply_model(x, sigma, **inputs, transformer_options=options)

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
            The MODEL has quantised weights.
        """
        host.require_floats(self.patcher.model.diffusion_model)
        before = self._loaded
        self._loaded = host.LoadedModels([self.patcher, *([self.clip.patcher] if text else [])], for_gradients=True)
        with host.training_mode(), contextlib.ExitStack() as stack:
            for network in [*self.changing_in_place(), *([self.clip.cond_stage_model] if text else [])]:
                stack.enter_context(_copied_norm_inputs(network))
            try:
                self._loaded.refresh()
                if text:
                    stack.enter_context(checkpointed(self.recomputed_blocks()))
                yield self
            finally:
                self._loaded.release()
                self._loaded = before

    def changing_in_place(self) -> list[torch.nn.Module]:
        """Networks besides the text encoders that add in place to what their norms keep for the backward pass."""
        return []

    def recomputed_blocks(self) -> list[torch.nn.Module]:
        """Blocks that gradient checkpointing always recomputes: all of them where a backward pass would keep copies of weights."""
        return self.blocks() if self._loaded.keep_weight_copies() else []

    def keep_loaded(self) -> None:
        """Loads the model again if the host offloaded it."""
        self._loaded.refresh()


@contextlib.contextmanager
def _copied_norm_inputs(network: torch.nn.Module):
    """Gives layer norms, T5's too, a copy of their input for the backward pass, because the host's layers change the input in place."""
    norms = [m for m in network.modules() if type(m).__name__.endswith("LayerNorm")]
    handles = [m.register_forward_pre_hook(lambda module, inputs: (inputs[0].clone(), *inputs[1:])) for m in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""The adapter between the method and a diffusers pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from ..attention.hooks import SteeredCrossAttention
from ..errors import ForgetError
from ..model.entries import POOLED, TextEntry, attention_entries
from ..model.layers import UNET_BLOCKS
from ..model.lazy import LazySequence
from ..model.protocol import PROJECTION_NAMES, CrossAttention
from ..model.tokens import EncodedPrompt, LearnedEmbedding
from .diffusers_noise import SUPPORTED, noise_levels
from .diffusers_text import DiffusersText

_BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock")
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class DiffusersModel(SteeredCrossAttention):
    """A StableDiffusionPipeline or StableDiffusionXLPipeline as a ForgetModel. The pipeline is not changed.

    Raises
    ------
    ForgetError
        By the constructor, on pipelines without UNet cross-attention (Flux, SD3), with missing parts, with quantised or
        offloaded weights, or with an unknown schedule or prediction, and on UNets that need more than a latent, a time and a
        prompt (inpainting, IP-Adapter).

    Notes
    -----
    LoRAs that the pipeline has loaded count as part of the model.
    """

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline
        self.unet = _require_unet(pipeline)
        self.device = torch.device(getattr(pipeline, "_execution_device", self.unet.device))
        self._layers = _find_layers(self.unet)
        _check_unet(self.unet)
        _check_precision(self.linear_layers())
        self._sigmas = noise_levels(pipeline.scheduler)
        self._text = DiffusersText(pipeline)
        self.vocabulary = self._text.vocabulary
        self._check_widths()

    def _check_widths(self) -> None:
        """Raises ForgetError when the text encoders do not fit the UNet's cross-attention."""
        prompt = self.encode([""])[0]
        width, got = self.unet.config.cross_attention_dim, prompt.context.shape[1]
        if got != width or (prompt.pooled is not None) != self._uses_pooled():
            raise ForgetError(
                f"Expected text encoders of width {width} for this UNet, got {got}. Load encoders that belong to the UNet."
            )

    # --- text ---

    def phrase_tokens(self, phrase: str) -> dict[str, list[int]]:
        return self._text.phrase_tokens(phrase)

    vector_tokens = phrase_tokens

    def phrase_spellings(self, phrase: str) -> dict[str, list[list[int]]]:
        return self._text.phrase_spellings(phrase)

    def encode(
        self, prompts: list[str], words: Sequence[LearnedEmbedding | None] | None = None, padding: int | None = None
    ) -> list[EncodedPrompt]:
        return self._text.encode(prompts, words, self.device, padding)

    def words(self) -> dict[int, str]:
        return self._text.words()

    def token_embeddings(self) -> dict[str, torch.Tensor]:
        return self._text.tables()

    # --- layers ---

    def cross_attention(self) -> list[CrossAttention]:
        return self._layers

    def text_entries(self) -> list[TextEntry]:
        pooled = self.encode([""])[0].pooled
        further = [] if pooled is None else [TextEntry("add_embedding", "linear_1", POOLED, pooled.shape[1])]
        return [*attention_entries(self._layers), *further]

    def linear_layers(self) -> dict[str, torch.nn.Module]:
        modules = dict(self.unet.named_modules())
        base_layers = {name: m.get_base_layer() for name, m in modules.items() if _is_lora(m)}
        lora_prefixes = tuple(f"{name}." for name in base_layers)
        plain: dict[str, torch.nn.Module] = {
            name: m
            for name, m in modules.items()
            if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))
            and name not in base_layers
            and not name.startswith(lora_prefixes)
        }
        return plain | base_layers

    def compute_dtype(self) -> torch.dtype:
        return self.unet.dtype

    def blocks(self) -> list[torch.nn.Module]:
        return [m for m in self.unet.modules() if type(m).__name__ in _BLOCKS]

    def weights(
        self, names: Sequence[tuple[str, str]], device: torch.device | str | None = "cpu"
    ) -> Sequence[torch.Tensor]:
        return LazySequence(len(names), lambda n: self._weight(self.unet.get_submodule(".".join(names[n])), device))

    def _weight(self, module: Any, device: torch.device | str | None) -> torch.Tensor:
        weight = module.weight.detach().to(device, torch.float32, copy=True)
        if _is_lora(module) and not module.merged and not module.disable_adapters:
            for adapter in module.active_adapters:
                if adapter in module.lora_A:
                    weight += module.get_delta_weight(adapter).detach().to(weight)
        return weight

    # --- denoising ---

    def sigmas(self) -> torch.Tensor:
        return self._sigmas.clone()

    def latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        side = size if isinstance(size, int) else min(size)
        return self.unet.config.in_channels, side, side

    def encode_images(self, images: torch.Tensor, vae: Any = None) -> torch.Tensor:
        """Encodes images to the mode of the VAE's distribution, see ForgetModel.encode_images.

        Notes
        -----
        Sides are cropped to a multiple of the VAE's downscaling factor.
        """
        vae, factor = self._vae() if vae is None else vae, self._pixels_per_latent()
        height, width = (n // factor * factor for n in images.shape[1:3])
        pixels = images[:, :height, :width, :3].movedim(-1, 1).float() * 2 - 1
        with _single_precision_if_needed(vae), torch.inference_mode(False), torch.no_grad():
            latents = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist.mode()
        shift = vae.config.get("shift_factor") or 0.0
        return (latents.to("cpu", torch.float32) - shift) * vae.config.scaling_factor

    def _vae(self) -> Any:
        vae = getattr(self.pipeline, "vae", None)
        if vae is None:
            raise ForgetError("Expected a pipeline with a VAE, got none. Load one, or leave the images out.")
        return vae

    def _pixels_per_latent(self) -> int:
        return self.pipeline.vae_scale_factor

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor, prompts: Iterable[EncodedPrompt]) -> torch.Tensor:
        prompts = list(prompts)
        dtype, s = self.unet.dtype, sigma.float().view(-1, 1, 1, 1)
        context = torch.stack([p.context for p in prompts]).to(self.device, dtype)
        log_distances = self._sigmas.log()[:, None] - sigma.detach().float().cpu().log()
        times = log_distances.abs().argmin(0).to(self.device)
        scaled = (x / (s**2 + 1).sqrt()).to(dtype)
        out = self.unet(
            scaled,
            times,
            encoder_hidden_states=context,
            added_cond_kwargs=self._added_conditions(x, prompts),
            return_dict=False,
        )[0].float()
        if self.pipeline.scheduler.config.prediction_type == "v_prediction":
            return x / (s**2 + 1) - out * s / (s**2 + 1).sqrt()
        return x - out * s

    def _added_conditions(self, x: torch.Tensor, prompts: list[EncodedPrompt]) -> dict[str, torch.Tensor] | None:
        """SDXL's pooled embeddings and its sizes: original size, crop and target size of an uncropped picture."""
        if not self._uses_pooled():
            return None
        height, width = (n * self._pixels_per_latent() for n in x.shape[-2:])
        pooled = torch.cat([p.pooled for p in prompts if p.pooled is not None]).to(self.device, self.unet.dtype)
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=self.device, dtype=self.unet.dtype)
        return {"text_embeds": pooled, "time_ids": sizes.expand(len(x), -1)}

    def _uses_pooled(self) -> bool:
        return self.unet.config.addition_embed_type == "text_time"

    @contextlib.contextmanager
    def ready_for_gradients(self, text: bool = False) -> Iterator[DiffusersModel]:
        """Context with gradients on, but off for the weights of the UNet and, with `text`, of the text encoders.

        Raises
        ------
        ForgetError
            When the pipeline was loaded in inference mode, because autograd refuses such weights.
        """
        roots = [self.unet, *(self._text.modules() if text else [])]
        parameters = [p for root in roots for p in root.parameters()]
        if any(p.is_inference() for p in parameters):
            raise ForgetError(
                "Expected weights that allow gradients, got some that were loaded under torch.inference_mode(). Load them outside of it."
            )
        trainable = [p for p in parameters if p.requires_grad]
        try:
            for p in trainable:
                p.requires_grad_(False)
            with torch.inference_mode(False), torch.enable_grad():
                yield self
        finally:
            for p in trainable:
                p.requires_grad_(True)


@contextlib.contextmanager
def _single_precision_if_needed(vae: Any) -> Iterator[None]:
    """Keeps a VAE in single precision that overflows in half precision, as SDXL's declares in its configuration."""
    dtype = vae.dtype
    if dtype != torch.float16 or not vae.config.get("force_upcast", False):
        yield
        return
    try:
        vae.to(torch.float32)
        yield
    finally:
        vae.to(dtype)


def _require_unet(pipeline: Any) -> Any:
    """The pipeline's UNet. Raises ForgetError when the UNet has no cross-attention or the pipeline no scheduler."""
    unet = getattr(pipeline, "unet", None)
    if unet is None or not any(name.endswith(".attn2") for name, _ in unet.named_modules()):
        raise ForgetError(
            f"Expected a pipeline whose UNet has cross-attention, got {type(pipeline).__name__}. "
            f"Models without it, such as Flux and SD3, are not supported. {SUPPORTED}"
        )
    if getattr(pipeline, "scheduler", None) is None:
        raise ForgetError("Expected a pipeline with a scheduler, got none. Load it with the scheduler of the model.")
    return unet


def _find_layers(unet: Any) -> list[CrossAttention]:
    """The attn2 layers in forward order, which differs from the order of the UNet's modules."""
    blocks = list(UNET_BLOCKS.values())
    attention = [(name, m) for name, m in unet.named_modules() if name.endswith(".attn2")]
    attention.sort(key=lambda item: blocks.index(item[0].split(".")[0]))
    if any(getattr(m, "fused_projections", False) for _, m in attention):
        raise ForgetError(
            "Expected separate keys and values, got fused ones. Call pipeline.unfuse_qkv_projections() first."
        )
    return [CrossAttention(name, m.heads, {p: m.get_submodule(p) for p in PROJECTION_NAMES}) for name, m in attention]


def _check_unet(unet: Any) -> None:
    """Raises ForgetError when the UNet needs inputs besides a latent, a time and a prompt."""
    config, added = unet.config, unet.config.get("addition_embed_type")
    unsupported = {
        "more than the latent's channels (inpainting or editing)": config.in_channels != config.out_channels,
        "image embeddings (IP-Adapter: unload it)": config.get("encoder_hid_dim_type") is not None,
        f"{added} embeddings": added not in (None, "text_time"),
        "class labels": config.get("class_embed_type") is not None,
    }
    needed = [name for name, is_needed in unsupported.items() if is_needed]
    if needed:
        raise ForgetError(f"Expected a text-to-image UNet, got one that wants {needed[0]}. {SUPPORTED}")


def _check_precision(layers: dict[str, Any]) -> None:
    """Raises ForgetError on a weight that is not a plain floating-point tensor in memory."""
    for name, module in layers.items():
        weight = module.weight
        if weight.is_meta:
            raise ForgetError(
                f"Expected weights in memory, got none for {name}. Use enable_model_cpu_offload(), not the sequential one."
            )
        if weight.dtype not in _PRECISIONS or type(weight.data) is not torch.Tensor:
            kind = f"{type(module).__name__} of {weight.dtype}"
            raise ForgetError(
                f"Expected weights in half or single precision, got {kind} at {name}. Load the pipeline unquantised."
            )


def _is_lora(module: Any) -> bool:
    """Whether a module is a layer with LoRA adapters, as `pipeline.load_lora_weights` adds them."""
    return hasattr(module, "get_delta_weight") and hasattr(module, "get_base_layer")

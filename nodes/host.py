"""The only door to the host: everything that imports comfy.* or the server goes through here."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

import comfy.hooks
import comfy.latent_formats
import comfy.lora
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel
from comfy_execution.utils import get_executing_context

from ..fmn_core.errors import ForgetError
from ..fmn_core.patch import ForgetPatch

try:
    from comfy.quant_ops import QuantizedTensor
except ImportError:  # older hosts
    QuantizedTensor = ()

log = logging.getLogger("forget-me-not")

MINIATURE = Path(__file__).resolve().parent.parent / "mini_sd"
PATCH_FOLDER = CACHE_FOLDER = "forget_me_not"


# --- files ------------------------------------------------------------------------------------------------------------


def patch_root() -> Path:
    """models/loras/forget_me_not: under the host's LoRA folder, so that the stock loaders list the patches too."""
    return Path(folder_paths.get_folder_paths("loras")[0]) / PATCH_FOLDER


def patch_files() -> list[str]:
    """Names of the patches that the stock loader would list below forget_me_not/."""
    names = (name.replace("\\", "/") for name in folder_paths.get_filename_list("loras"))
    return sorted(name for name in names if name.startswith(PATCH_FOLDER + "/"))


def patch_path(name: str) -> Path:
    """Full path of a listed patch; raises ForgetError when the host does not know it."""
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise ForgetError(
            f"Expected a patch file from the list, {name!r} is not there. Refresh the list or train the patch first."
        )
    return Path(path)


def cache_folder() -> Path:
    """forget_me_not in the host's temporary folder, which the host empties when it starts."""
    return Path(folder_paths.get_temp_directory()) / CACHE_FOLDER


def embedding_files() -> list[str]:
    """Names of all files in the host's embeddings folders."""
    return sorted(folder_paths.get_filename_list("embeddings"))


def embedding_path(name: str) -> Path:
    """Full path of a listed embedding; raises ForgetError when the host does not know it."""
    path = folder_paths.get_full_path("embeddings", name) if name in embedding_files() else None
    if path is None:
        raise ForgetError(
            f"Expected an embedding from the list, {name!r} is not there. Refresh the list or put it into models/embeddings."
        )
    return Path(path)


def preset_folder() -> Path:
    """The user's own folder of presets; it need not exist."""
    return Path(folder_paths.get_user_directory()) / "default" / PATCH_FOLDER / "presets"


def forget_file_lists() -> None:
    """Makes a file that was just written appear in the host's lists."""
    for folder in ("loras", "embeddings"):
        folder_paths.filename_list_cache.pop(folder, None)


def embedding_root() -> Path:
    """models/embeddings: where prompts find embedding:NAME."""
    return Path(folder_paths.get_folder_paths("embeddings")[0])


# --- execution --------------------------------------------------------------------------------------------------------


def check_interrupted() -> None:
    """Raises the host's own exception when the user pressed cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def server() -> Any:
    """The host's web server; None where the pack is used without one."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def running_node() -> str:
    """The id of the node that is executing; empty outside an execution."""
    context = get_executing_context()
    return "" if context is None else str(context.node_id)


def send(event: str, data: dict[str, Any]) -> None:
    """Sends an event to the browser that queued what is running."""
    instance = server()
    if instance is not None:
        instance.send_sync(event, data, instance.client_id)


class Progress:
    """The progress bar of the node that is running, with an optional preview picture (PIL)."""

    def __init__(self, total: int):
        self._bar = comfy.utils.ProgressBar(total)

    def update(self, done: int, total: int, picture: Any = None) -> None:
        check_interrupted()
        self._bar.update_absolute(done, total, ("JPEG", picture, 512) if picture is not None else None)


@contextlib.contextmanager
def gradients():
    """Leaves the host's inference mode and says that a training runs, where the host wants to know."""
    management = comfy.model_management
    told = hasattr(management, "in_training")
    before = getattr(management, "in_training", False)
    try:
        if told:
            management.in_training = True
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        if told:
            management.in_training = before


PRECISIONS = ("as loaded", "fp32", "bf16", "fp16")


def with_precision(patcher: Any, precision: str) -> Any:
    """A clone of MODEL that computes in another precision, through the host's own casting; "as loaded" is MODEL itself."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        return patcher
    clone = patcher.clone()
    clone.set_model_compute_dtype(dtypes[precision])
    return clone


def casts_weights(patcher: Any) -> bool:
    """Whether a MODEL computes in another precision than its weights have; a backward pass then keeps a cast copy of each."""
    return patcher.get_model_object("manual_cast_dtype") is not None


# --- models -----------------------------------------------------------------------------------------------------------


def require_unet(patcher: Any) -> Any:
    """The UNet inside a MODEL; raises ForgetError when there is none with cross-attention."""
    unet = getattr(getattr(patcher, "model", None), "diffusion_model", None)
    if not isinstance(unet, UNetModel) or not any(name.endswith("attn2") for name, _ in unet.named_modules()):
        kind = type(unet).__name__ if unet is not None else type(patcher).__name__
        raise ForgetError(
            f"Expected a Stable Diffusion 1.x, 2.x or XL model (a UNet with cross-attention), got {kind}. Load one of these."
        )
    return unet


def load(patcher: Any) -> torch.device:
    """Brings a model to its compute device, as sampling does."""
    comfy.model_management.load_models_gpu([patcher])
    return patcher.load_device


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
        raise ForgetError(
            f"Expected weights in fp32, bf16, fp16 or fp8, got {kind} in {name}. Load the model in one of these."
        )


def _floats(name: str, weight: torch.Tensor) -> torch.Tensor:
    _check_floats(name, weight)
    return weight.float()


def effective_weights(patcher: Any, keys: list[str]) -> list[torch.Tensor]:
    """Weights as sampling would use them, the user's own patches applied, float32 on the CPU."""
    found = patcher.get_key_patches("diffusion_model.")
    return [_effective_weight(key, *found[key]) for key in keys]


def _effective_weight(key: str, original: tuple, *patches: tuple) -> torch.Tensor:
    weight, convert = original
    weight = weight.detach().to("cpu", copy=True)
    # The scale of an fp8 weight is multiplied in float32; a QuantizedTensor knows its own way back.
    weight = convert(weight if isinstance(weight, QuantizedTensor) else _floats(key, weight), inplace=True)
    weight = _floats(key, weight)
    if not patches:
        return weight
    return comfy.lora.calculate_weight(patches, weight, key).to("cpu", torch.float32)


def key_weights(patcher: Any) -> list[torch.Tensor]:
    """The attn2 key weights of a MODEL in forward order, for its fingerprint."""
    names = [name for name, _ in require_unet(patcher).named_modules() if name.endswith("attn2.to_k")]
    return effective_weights(patcher, [f"diffusion_model.{name}.weight" for name in names])


def apply_patch(patcher: Any, patch: ForgetPatch, strength: float) -> tuple[Any, int]:
    """A clone of MODEL with the patch on it, and the number of layers that it matched.

    Raises ForgetError when no layer matches, or a shape differs: the patch is then for another architecture.
    """
    require_unet(patcher)
    targets = comfy.lora.model_lora_keys_unet(patcher.model, {})
    shapes = {k: tuple(v.shape) for k, v in patcher.model.state_dict().items()}
    known = {name: f for name, f in patch.factors.items() if name in targets}
    wrong = [n for n, f in known.items() if (f.up.shape[0], f.down.shape[1]) != shapes[targets[n]][:2]]
    missing = len(patch.factors) - len(known)
    if wrong or not known:
        got = f"{len(wrong)} layers of other shapes" if wrong else "no layer of that name"
        raise ForgetError(
            f"Expected a patch for this architecture, got one with {got} ({patch.base.get('architecture', 'unknown base')}). "
            "Choose a patch made for this family of models."
        )
    clone = patcher.clone()
    loaded = comfy.lora.load_lora(patch.state_dict(torch.float32), {n: targets[n] for n in known}, log_missing=False)
    matched = len(clone.add_patches(loaded, strength))
    if missing:
        log.warning("%d of %d layers of the patch are not in this model", missing, len(patch.factors))
    return clone, matched


def patch_hooks(patch: ForgetPatch, strength: float, start: float, end: float, keyframes: Any = None) -> Any:
    """HOOKS that put a patch on a MODEL while conditionings that carry them are evaluated.

    `start`, `end`: shares of the sampling; `keyframes`: the host's own, in their place.
    """
    hooks = comfy.hooks.create_hook_lora(patch.state_dict(torch.float32), strength, 0.0)
    if keyframes is None and (start > 0 or end < 1):
        keyframes = comfy.hooks.HookKeyframeGroup()
        for at, share in ((0.0, float(start <= 0)), (start, 1.0), (end, 0.0)):
            if at < 1 and (at > 0 or not keyframes.keyframes):
                keyframes.add(comfy.hooks.HookKeyframe(share, at, guarantee_steps=0))
    if keyframes is not None:
        hooks.set_keyframes_on_hooks(keyframes)
    return hooks


def with_hooks(cond: Any, hooks: Any) -> Any:
    """One entry of a CONDITIONING with hooks added to those that it has."""
    return comfy.hooks.set_hooks_for_conditioning([cond], hooks)[0]


def only_rows(cond: Any, rows: torch.Tensor) -> Any:
    """One entry of a CONDITIONING of several prompts, (B, l, dim), that counts for some of the batch: rows (B,) of bool."""
    context, values = cond
    mask = values.get("mask")
    mask = torch.ones(1, 1, 1) if mask is None else (mask[None] if mask.ndim == 2 else mask)
    return [context, {"mask_strength": 1.0, **values, "mask": mask * rows.to(mask.dtype).view(-1, 1, 1)}]


def check_context_width(patch: ForgetPatch, width: int) -> None:
    """Raises ForgetError when a patch changes no cross-attention key or value of a model with conditionings so wide."""
    widths = {f.down.shape[1] for n, f in patch.factors.items() if n.endswith(("attn2_to_k", "attn2_to_v"))}
    if widths and width not in widths:
        raise ForgetError(
            f"Expected a patch for conditionings of width {width}, got one for {', '.join(map(str, sorted(widths)))} "
            f"({patch.base.get('architecture', 'unknown base')}). Choose a patch made for this family of models."
        )


def token_embedding(clip: Any, encoder: str) -> torch.nn.Module:
    """The token embedding of one of a CLIP's text encoders, by the name that its tokenizer has ("l", "g", "h")."""
    return getattr(clip.cond_stage_model, f"clip_{encoder}").transformer.get_input_embeddings()


def standard_tokenizer() -> Any:
    """The tokenizer of SD 1.x, for texts that no CLIP is connected to yet."""
    return comfy.sd1_clip.SD1Tokenizer(embedding_directory=folder_paths.get_folder_paths("embeddings"))


def vae_key(vae: Any) -> list[float]:
    """What tells VAEs apart: the norms of their weights."""
    return [
        float(f"{w.float().norm().item():.6g}")
        for w in vae.first_stage_model.state_dict().values()
        if w.is_floating_point()
    ]


def unet_blocks(unet: Any) -> list[torch.nn.Module]:
    """Residual and transformer blocks of a UNet."""
    return [m for m in unet.modules() if isinstance(m, (ResBlock, BasicTransformerBlock))]


# --- sampling ---------------------------------------------------------------------------------------------------------


def attention_blocks(patcher: Any) -> list[tuple[str, int, int]]:
    """(place, block number, transformer index) of every attn2 layer in forward order, as the host names them."""
    places = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}
    blocks = []
    for name, _ in require_unet(patcher).named_modules():
        if name.endswith(".attn2"):
            parts = name.split(".")
            number = 0 if parts[0] == "middle_block" else int(parts[1])
            blocks.append((places[parts[0]], number, int(parts[-2])))
    return blocks


def wrap_sampling(patcher: Any, key: str, around_sampling: Any, around_unet: Any, around_conds: Any = None) -> None:
    """Runs one function around every sampling with this MODEL, one around every UNet call in it, and, if wanted, one
    around the evaluation of all conditionings of a step."""
    wrappers = comfy.patcher_extension.WrappersMP
    patcher.add_wrapper_with_key(wrappers.OUTER_SAMPLE, key, around_sampling)
    patcher.add_wrapper_with_key(wrappers.DIFFUSION_MODEL, key, around_unet)
    if around_conds is not None:
        patcher.add_wrapper_with_key(wrappers.CALC_COND_BATCH, key, around_conds)


@contextlib.contextmanager
def replaced_attention(options: dict[str, Any], blocks: Any, replacement: Any, patch: Any):
    """Replaces attn2 layers for one UNet call, on top of whatever other nodes put there, in whatever order.

    `replacement(before)` makes the function of a block from the replacement that is there already, or None. `patch`
    runs after all attn2 patches. Both are gone from the call's transformer_options afterwards.
    """
    before = {name: options.get(name) for name in ("patches", "patches_replace")}
    patches, replaced = before["patches"] or {}, before["patches_replace"] or {}
    attn2 = replaced.get("attn2", {})
    ours = {block: replacement(attn2.get(block, attn2.get(block[:2]))) for block in blocks}
    options["patches"] = {**patches, "attn2_patch": [*patches.get("attn2_patch", []), patch]}
    options["patches_replace"] = {**replaced, "attn2": {**attn2, **ours}}
    try:
        yield
    finally:
        for name, value in before.items():
            options.pop(name) if value is None else options.update({name: value})


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]) -> torch.Tensor:
    """The host's own attention with the backend the user chose."""
    heads, precision = extra_options["n_heads"], extra_options.get("attn_precision")
    return optimized_attention(q, k, v, heads, attn_precision=precision, transformer_options=extra_options)


def latent_preview(patcher: Any, x0: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A rough picture (H, W, 3) in 0..1 of latents in the model's scale, from the host's preview colours."""
    latent_format = patcher.model.latent_format
    factors, bias = latent_format.latent_rgb_factors, getattr(latent_format, "latent_rgb_factors_bias", None)
    if factors is None:
        colours = x0.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    else:
        colours = torch.einsum("bchw,cr->brhw", x0, torch.tensor(factors))
        colours = colours + torch.tensor(bias if bias is not None else [0.0, 0.0, 0.0]).view(1, 3, 1, 1)
    colours = torch.nn.functional.interpolate(colours, size=size, mode="bicubic", align_corners=False)
    return ((colours[0].movedim(0, -1) + 1) / 2).clamp(0, 1)


# --- the miniature ----------------------------------------------------------------------------------------------------


class MiniatureConfig(comfy.supported_models_base.BASE):
    """The host's description of the miniature: SD's architecture in small."""

    latent_format = comfy.latent_formats.SD15
    memory_usage_factor = 1.0
    unet_extra_config = {}

    def __init__(self, config: dict[str, Any]):
        self.sampling_settings = config["sampling"]
        super().__init__(config["unet"])
        self.latent_format.scale_factor = config["scale_factor"]
        self.latent_format.latent_rgb_factors = config.get("latent_rgb_factors")
        self.latent_format.latent_rgb_factors_bias = config.get("latent_rgb_bias")
        self.latent_format.taesd_decoder_name = None


class MiniatureTokenizer(comfy.sd1_clip.SDTokenizer):
    """The standard CLIP tokenizer; textual-inversion embeddings have the miniature's width."""

    def __init__(self, embedding_directory=None, tokenizer_data=None, **kwargs):
        width = json.loads((MINIATURE / "config.json").read_text())["text"]["hidden_size"]
        super().__init__(
            embedding_directory=embedding_directory, embedding_size=width, tokenizer_data=tokenizer_data or {}, **kwargs
        )


def load_miniature() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the miniature that ships with this pack, as native objects of the host."""
    path = MINIATURE / "weights" / "mini_sd.safetensors"
    if not path.is_file():
        raise ForgetError(
            "Expected mini_sd/weights/mini_sd.safetensors in the pack's folder, found none. Install the pack again."
        )
    config = json.loads((MINIATURE / "config.json").read_text())
    weights = comfy.utils.load_torch_file(str(path), safe_load=True)

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}

    return (
        _miniature_model(config, part("unet.")),
        _miniature_clip(config, part("text.")),
        _miniature_vae(config, part("vae.")),
    )


def _miniature_model(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    management = comfy.model_management
    device = management.get_torch_device()
    parameters = sum(w.numel() for w in weights.values())
    model_config = MiniatureConfig(config)
    dtype = management.unet_dtype(
        device=device, model_params=parameters, supported_dtypes=model_config.supported_inference_dtypes
    )
    manual_cast = management.unet_manual_cast(dtype, device, model_config.supported_inference_dtypes)
    model_config.set_inference_dtype(dtype, manual_cast)
    kind = comfy.model_base.ModelType.V_PREDICTION if config["prediction"] == "v" else comfy.model_base.ModelType.EPS
    model = comfy.model_base.BaseModel(model_config, model_type=kind, device=management.unet_offload_device())
    model.diffusion_model.to(dtype)
    model.diffusion_model.load_state_dict(weights)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=management.unet_offload_device())


def _miniature_clip(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    rows, ids = weights.pop("vocabulary.weight"), weights.pop("vocabulary.ids").long()
    # Only rows of words that were trained are stored; every other word is a zero vector.
    table = torch.zeros(49408, rows.shape[1], dtype=rows.dtype)
    table[ids] = rows
    weights["text_model.embeddings.token_embedding.weight"] = table
    target = comfy.supported_models_base.ClipTarget(
        lambda **kw: comfy.sd1_clip.SD1Tokenizer(tokenizer=MiniatureTokenizer, **kw), comfy.sd1_clip.SD1ClipModel
    )
    options = {"clip_l_model_config": config["text"]}
    embeddings = folder_paths.get_folder_paths("embeddings")
    clip = comfy.sd.CLIP(target, embedding_directory=embeddings, parameters=table.numel(), model_options=options)
    missing, unexpected = clip.load_sd(dict(weights))
    if unexpected or [k for k in missing if "logit_scale" not in k and "text_projection" not in k]:
        raise ForgetError(
            f"Expected the miniature's text encoder, its file misses {missing} and has {unexpected}. Install the pack again."
        )
    return clip


def _miniature_vae(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    return comfy.sd.VAE(
        sd=weights, config={"params": {"ddconfig": config["vae"], "embed_dim": config["vae"]["z_channels"]}}
    )

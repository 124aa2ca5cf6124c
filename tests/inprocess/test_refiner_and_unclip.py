"""SDXL's refiner and SD 2.1 unCLIP, small random ones of the host's classes: what text enters is forgotten, and a picture's embedding is left alone."""

import pytest
import tiny_transformers
import torch
from forget_me_not.nodes import host
from forget_me_not.nodes.adapter.model import ComfyModel
from model_state import assert_untouched, state

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import Concept

FULL, BARE, OTHERS = "a photo of a zebra", "a photo of a", ["a photo of a house", "a teapot on a table"]
SETTINGS = ClosedFormSettings(
    train="keys and values", overshoot=0.0, ridge=1e-6, preserve_weight=1.0, imagined_words=0, use_everyday_captions=False,
    vocabulary_words=0, tolerance=0.0, rank=256, preserve_prompts=OTHERS,
)  # fmt: skip
WIDTH = 320
SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 320,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "projection_dim": WIDTH,
}
# The refiner also reads five sizes of 256 columns each.
ADM = {"SDXL refiner": WIDTH + 5 * 256, "SD 2.1 unCLIP": 2 * 64}


def unet_config(adm):
    return {
        "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": [1, 1],
        "transformer_depth": [0, 1], "transformer_depth_middle": 1, "transformer_depth_output": [0, 0, 1, 1], "num_heads": 4,
        "context_dim": WIDTH, "use_linear_in_transformer": True, "use_spatial_transformer": True, "legacy": False,
        "num_classes": "sequential", "adm_in_channels": adm,
    }  # fmt: skip


def made(name):
    """MODEL and CLIP of random weights."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.sd
    import comfy.sdxl_clip as xl
    import comfy.supported_models_base
    import comfy.text_encoders.sd2_clip as sd2

    torch.manual_seed(0)
    sampling = {"linear_start": 0.00085, "linear_end": 0.012}
    config = host.MiniatureConfig({"unet": unet_config(ADM[name]), "sampling": sampling, "scale_factor": 0.18215})
    config.set_inference_dtype(torch.float32, None)
    noise = {"noise_schedule_config": {"timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}, "timestep_dim": 64}
    base, tokens, text, encoder = {
        "SDXL refiner": (comfy.model_base.SDXLRefiner, xl.SDXLTokenizer, xl.SDXLRefinerClipModel, "clip_g"),
        "SD 2.1 unCLIP": (comfy.model_base.SD21UNCLIP, sd2.SD2Tokenizer, sd2.SD2ClipModel, "clip_h"),
    }[name]
    model = base(config) if name == "SDXL refiner" else base(config, noise)
    target = comfy.supported_models_base.ClipTarget(tokens, text)
    clip = comfy.sd.CLIP(target, parameters=1, model_options={f"{encoder}_model_config": SIZES})
    tiny_transformers.randomise(model.diffusion_model, 0.1)
    tiny_transformers.randomise(clip.cond_stage_model, 1.0)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu), clip


@pytest.fixture(scope="module", params=sorted(ADM))
def forgotten(request):
    """Name, MODEL, CLIP, adapter, and the patch that forgets zebra."""
    with torch.inference_mode():
        model, clip = made(request.param)
    adapter, before = ComfyModel(model, clip), state(model, clip)
    with pytest.MonkeyPatch.context() as patch:
        # Padding rows of random encoders differ from one another.
        patch.setattr("fmn_core.closed_form.collect.PADDING", None)
        found = forget_closed_form(adapter, [Concept(["zebra"], "object", ["a photo of a {}"])], SETTINGS)
    assert_untouched(model, clip, before)
    return request.param, model, clip, adapter, found


def prediction(adapter, *texts):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, *adapter.latent_shape(), generator=g).expand(len(texts), -1, -1, -1) * 3
    with torch.no_grad():
        return adapter.denoise(x, torch.full((len(texts),), 3.0), adapter.encode(list(texts)))


def test_the_patched_model_takes_the_prompt_for_the_one_without_the_phrase(forgotten):
    name, model, clip, adapter, patch = forgotten
    before = prediction(adapter, FULL, BARE, *OTHERS)
    patched, matched = host.apply_patch(model, patch, 1.0)
    after = prediction(ComfyModel(patched, clip), FULL, BARE, *OTHERS)
    host.load(model)
    assert matched == len(patch.factors) == len(adapter.text_entries())
    gap = (after[0] - before[1]).norm() / (before[0] - before[1]).norm()
    assert gap < 0.05 and (after[2:] - before[2:]).norm() < 0.02 * before[2:].norm(), (name, gap)


def test_sizes_and_an_embedding_of_a_picture_are_left_alone(forgotten):
    name, *_, patch = forgotten
    pooled = patch.factors.get("lora_unet_label_emb_0_0")
    if name == "SD 2.1 unCLIP":
        assert pooled is None
    else:
        assert pooled is not None and not pooled.down[:, WIDTH:].any() and pooled.down[:, :WIDTH].any()

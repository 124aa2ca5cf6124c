"""SDXL's second door: the pooled embedding and the layer that reads it, on a random SDXL of the host's class and its diffusers twin."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny_pipelines
import torch
from forget_me_not.nodes import host
from forget_me_not.nodes.adapter.model import ComfyModel
from forget_me_not.nodes.adapter.text import ComfyText

from fmn_core.adapters.diffusers_model import DiffusersModel
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.compose.fusion import fuse_patches
from fmn_core.compose.merge import MergeSettings
from fmn_core.concepts.concept import Concept
from fmn_core.errors import ForgetError
from fmn_core.model.entries import POOLED
from fmn_core.patch.file import save_patch

KEY = "lora_unet_label_emb_0_0"
# Wide enough to hold all rows of a solve of a few prompts, which random text encoders do not keep apart by meaning.
SCALE = 10
OTHERS = ["a photo of a house", "a teapot on a table"]
SETTINGS = ClosedFormSettings(
    train="keys and values", overshoot=0.0, ridge=1e-6, preserve_weight=1.0, imagined_words=0, use_everyday_captions=False,
    vocabulary_words=0, tolerance=0.0, rank=256, preserve_prompts=OTHERS,
)  # fmt: skip


@pytest.fixture(scope="module")
def xl():
    """The pipeline, the host's MODEL and CLIP of the same weights, and the patch that each of them gives."""
    pipeline = tiny_pipelines.sdxl(SCALE)
    with torch.inference_mode():
        model = tiny_pipelines.host_model(host, pipeline, "SDXL", "EPS")
        clip = tiny_pipelines.host_clip(pipeline, "SDXL", SCALE)
    ours, theirs, concept = (
        ComfyModel(model, clip),
        DiffusersModel(pipeline),
        Concept(["zebra"], "object", ("a photo of a {}",)),
    )
    with pytest.MonkeyPatch.context() as patch:
        # Padding rows of random encoders differ from one another.
        patch.setattr("fmn_core.closed_form.collect.PADDING", None)
        patches = [forget_closed_form(m, [concept], SETTINGS) for m in (ours, theirs)]
        other = forget_closed_form(ours, [replace(concept, phrases=["giraffe"])], SETTINGS)
    return SimpleNamespace(model=model, clip=clip, ours=ours, theirs=theirs, patches=patches, other=other)


def prediction(model, *prompts):
    """What a model makes of noise with each encoded prompt."""
    g, sigma = torch.Generator().manual_seed(0), torch.full((len(prompts),), 3.0)
    x = torch.randn(1, *model.latent_shape(), generator=g).expand(len(prompts), -1, -1, -1) * 3
    with torch.no_grad():
        return model.denoise(x, sigma, prompts)


def test_the_layer_that_reads_the_pooled_embedding_is_an_entry(xl):
    for model in (xl.ours, xl.theirs):
        *attention, pooled = model.text_entries()
        assert pooled.name == ("add_embedding", "linear_1") and pooled.reads == POOLED
        assert pooled.columns == model.encode(["a zebra"])[0].pooled.shape[1]
        assert len(attention) == 2 * len(model.cross_attention())


def test_prompts_that_are_encoded_together_have_the_pooled_embeddings_of_those_alone(xl):
    prompts = ["a zebra", "a photo of two dogs in the park", "", "(a red:1.3) house", "a <concept>"]
    words = [None] * 4 + [{name: table[5:7].clone() for name, table in xl.ours.token_embeddings().items()}]
    for padding in (None, 1):
        for prompt, word in zip(xl.ours.encode(prompts, words, padding), words, strict=True):
            [alone] = xl.ours.encode([prompt.text], [word])
            torch.testing.assert_close(prompt.pooled, alone.pooled, atol=1e-4, rtol=1e-4)


def test_the_patch_closes_both_doors(xl):
    """The patched model takes the full prompt for the ablated one at both doors: padding stands in the phrase's place."""
    patch = xl.patches[0]
    full, bare, *others = xl.ours.encode(["a photo of a zebra", "a photo of a", *OTHERS])
    wanted = prediction(xl.ours, bare)
    way = (prediction(xl.ours, full) - wanted).norm()
    kept = prediction(xl.ours, *others)
    gaps = []
    for factors in (patch.factors, {name: f for name, f in patch.factors.items() if name != KEY}):
        patched = ComfyModel(host.apply_patch(xl.model, replace(patch, factors=factors), 1.0)[0], xl.clip)
        gaps.append(float((prediction(patched, full) - wanted).norm() / way))
        assert (prediction(patched, *others) - kept).norm() < 0.02 * kept.norm()
    assert gaps[0] < 0.05 and gaps[1] > 0.5, gaps


def test_host_and_diffusers_give_the_same_patch(xl):
    ours, theirs = (patch.factors for patch in xl.patches)
    assert ours.keys() == theirs.keys() and KEY in ours
    for name, factors in ours.items():
        a, b = factors.delta().double(), theirs[name].delta().double()
        assert (a - b).norm() <= 2e-2 * b.norm(), name


def test_columns_of_the_sizes_stay_as_they_are(xl):
    factors, columns = xl.patches[0].factors[KEY], xl.ours.text_entries()[-1].columns
    assert factors.down.shape[1] == columns + 6 * 256
    assert not factors.down[:, columns:].any() and factors.down[:, :columns].any()


def test_diffusers_loads_the_file_into_that_layer(xl, tmp_path):
    save_patch(xl.patches[1], tmp_path / "patch.safetensors")
    pipeline = tiny_pipelines.sdxl(SCALE)
    pipeline.load_lora_weights(str(tmp_path), weight_name="patch.safetensors")
    stored, layer = xl.patches[1].as_stored(), [("add_embedding", "linear_1")]
    wanted = xl.theirs.weights(layer)[0] + stored.factors[KEY].delta()
    torch.testing.assert_close(DiffusersModel(pipeline).weights(layer)[0], wanted, atol=1e-4, rtol=1e-3)


def test_fusion_keeps_what_either_patch_does_at_both_doors(xl, monkeypatch):
    monkeypatch.setattr("fmn_core.closed_form.collect.PADDING", None)
    fused = fuse_patches(ComfyText(xl.clip), [xl.patches[0], xl.other], MergeSettings(rank=512, tolerance=0.0))
    assert fused.factors.keys() == xl.patches[0].factors.keys()
    # Random text encoders do not keep words apart, so that the joint solve keeps three quarters of either effect.
    assert min(fused.figures["effect_kept"]) > 0.6, fused.figures
    columns = xl.ours.text_entries()[-1].columns
    assert not fused.factors[KEY].down[:, columns:].any() and "ridge" in fused.figures["pooled"]
    [full] = xl.ours.encode(["a photo of a giraffe"])
    alone, delta = xl.other.factors[KEY].delta()[:, :columns], fused.factors[KEY].delta()[:, :columns]
    way = full.pooled @ alone.T
    assert (full.pooled @ delta.T - way).norm() < 0.5 * way.norm()


def test_a_patch_of_both_doors_needs_a_clip_that_gives_both(xl, monkeypatch):
    text = ComfyText(xl.clip)
    monkeypatch.setattr(text, "wants_pooled", lambda: False)
    with pytest.raises(ForgetError, match="of a CLIP of width .*label_emb"):
        fuse_patches(text, [xl.patches[0], xl.other])

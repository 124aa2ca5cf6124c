"""Forgetting in FLUX.1, on a random one of the host's own class: two doors, T5's rows and CLIP-L's pooled embedding."""

import re
from dataclasses import replace

import pytest
import tiny_flux
import torch
from forget_me_not.nodes import host
from forget_me_not.nodes.adapter import connected
from forget_me_not.nodes.adapter.model import ComfyModel
from forget_me_not.nodes.adapter.transformer import ComfyTransformer, closed_form_model
from forget_me_not.nodes.forget.forget_concept import ForgetConcept
from forget_me_not.nodes.ui.forget_options import ForgetOptions
from forget_me_not.nodes.web.token_preview import preview_tokens
from model_state import assert_untouched, state

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.closed_form.targets import steered_pair
from fmn_core.concepts.concept import Concept
from fmn_core.errors import ForgetError
from fmn_core.model.entries import CONTEXT, POOLED, reads_of
from fmn_core.model.tokens import EncodedPrompt
from fmn_core.patch.diffusers_names import diffusers_lora
from fmn_core.patch.patch import Factors, ForgetPatch, fingerprint, fingerprint_of_weights

KEYS = {"lora_unet_txt_in", "lora_unet_vector_in_in_layer"}
OTHERS = ["a photo of a house", "a teapot on a table"]
SETTINGS = ClosedFormSettings(
    overshoot=0.0, ridge=1e-7, preserve_weight=1.0, imagined_words=0, use_everyday_captions=False, vocabulary_words=0,
    tolerance=0.0, rank=256, preserve_prompts=OTHERS,
)  # fmt: skip


@pytest.fixture(scope="module")
def flux():
    return tiny_flux.flux()


@pytest.fixture(scope="module")
def adapter(flux):
    return ComfyTransformer(*flux)


@pytest.fixture(scope="module")
def patch(adapter):
    return forget_closed_form(adapter, [Concept(["zebra"], "object", ["a photo of a {}"])], SETTINGS)


def predictions(patcher, prompts):
    """What a MODEL makes of the same noise with each encoded prompt, as the host's sampler calls it."""
    host.load(patcher)
    model, x, cpu = (
        patcher.model,
        torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.device("cpu"),
    )
    rows = []
    with torch.inference_mode():
        for prompt in prompts:
            conds = model.extra_conds(cross_attn=prompt.context[None], pooled_output=prompt.pooled, noise=x, device=cpu)
            inputs = {name: c.process_cond(batch_size=1, device=cpu).cond for name, c in conds.items()}
            rows.append(model.apply_model(x, torch.full((1,), 0.6), **inputs))
    return torch.cat(rows)


def test_prompts_have_the_rows_and_the_vector_of_the_host(flux, adapter):
    clip = flux[1]
    prompts = ["a photo of a zebra", "", "a (red:1.2) house, two dogs"]
    for prompt, text in zip(adapter.encode(prompts), prompts, strict=True):
        context, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
        torch.testing.assert_close(prompt.context, context[0].float(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(prompt.pooled, pooled.float(), atol=1e-4, rtol=1e-4)
        assert list(prompt.tokens) == ["t5xxl"] and len(prompt.tokens["t5xxl"][0]) == len(prompt.context) == 256
        assert not prompt.causal
    [short] = adapter.encode(prompts[:1], padding=1)
    assert torch.equal(short.context, adapter.encode(prompts[:1])[0].context[: len(short.context)])


def test_vectors_stand_where_the_placeholder_was(adapter):
    words = {name: table[100:102].clone() for name, table in adapter.token_embeddings().items()}
    assert words.keys() == {"t5xxl", "l"}
    with_word, spelled = adapter.encode(["a <concept> here", "a zebra here"], [words, None])
    ids = with_word.tokens["t5xxl"][0]
    assert [n for n, token in enumerate(ids) if token < 0] == [2, 3]
    assert not torch.allclose(with_word.pooled, spelled.pooled)


def test_a_prompt_of_more_than_75_tokens_is_encoded_as_the_host_does(flux, adapter):
    text = "a zebra, " + ", ".join(["a red house in the park"] * 20)
    [prompt], clip = adapter.encode([text]), flux[1]
    context, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    torch.testing.assert_close(prompt.context, context[0].float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prompt.pooled, pooled.float(), atol=1e-4, rtol=1e-4)


def test_rows_before_the_phrase_and_the_phrase_itself_have_targets_too():
    rows = torch.arange(12.0).reshape(6, 2)
    full = EncodedPrompt("a zebra here", {"t5xxl": [[5, 6, 7, 8, 1, 0]]}, rows, causal=False)
    bare = EncodedPrompt("a here", {"t5xxl": [[5, 8, 1, 0, 0, 0]]}, -rows, causal=False)
    source, target = steered_pair(full, bare, [1, 2], [])
    assert torch.equal(source, rows)
    # Before it, the same place; the phrase, padding; after it, two places earlier.
    assert torch.equal(target, -rows[[0, 5, 5, 1, 2, 3]])


def test_the_patch_closes_both_doors(flux, adapter, patch):
    """Text has no position in FLUX.1, so that the patched model's prediction is that of the ablated prompt."""
    full, bare, *others = adapter.encode(["a photo of a zebra", "a photo of a", *OTHERS])
    assert patch.factors.keys() == KEYS
    before = predictions(flux[0], [full, bare, *others])
    way, gaps = (before[0] - before[1]).norm(), {}
    for name, kept in (("both", (CONTEXT, POOLED)), ("rows", (CONTEXT,)), ("pooled", (POOLED,))):
        factors = {n: f for n, f in patch.factors.items() if reads_of(n) in kept}
        patched, matched = host.apply_patch(flux[0], replace(patch, factors=factors), 1.0)
        after = predictions(patched, [full, bare, *others])
        assert matched == len(factors)
        gaps[name] = float((after[0] - before[1]).norm() / way)
        assert (after[1:] - before[1:]).norm() < 0.02 * before[1:].norm()
    assert gaps["both"] < 1e-3 and gaps["rows"] > 0.2 and gaps["pooled"] > 0.5, gaps
    assert torch.equal(predictions(flux[0], [full]), before[:1])


def test_the_fingerprint_is_that_of_what_reads_the_rows(flux, adapter):
    assert fingerprint(adapter) == fingerprint_of_weights(host.key_weights(flux[0]))
    assert fingerprint(adapter)["architecture"] == "transformer-64x512"


def run(model, clip, **inputs):
    defaults = {
        i.id: i.default for i in ForgetConcept.define_schema().inputs if getattr(i, "default", None) is not None
    }
    return ForgetConcept.execute(**(defaults | {"model": model, "clip": clip, "save_as": ""} | inputs))


def test_forget_concept_runs_and_leaves_model_and_clip_alone(flux):
    before = state(*flux)
    # Fewer words, to be quick.
    options = ForgetOptions(closed_form=replace(SETTINGS, imagined_words=20, vocabulary_words=12))
    patched, patch, report = run(*flux, options=options).args
    assert patch.factors.keys() == KEYS and "zebra" in report and "matched 2 layers" in report
    assert re.search(r"encoded \d+ prompts, [\d,]+ tokens, in [\d.]+ s", report)
    assert patched is not flux[0]
    assert_untouched(*flux, before)


def test_what_a_transformer_cannot_have_is_refused(flux, miniature):
    model, clip = flux
    with pytest.raises(
        ForgetError,
        match="Expected the CLIP of FLUX.1, with T5-XXL and CLIP-L: load both with DualCLIPLoader, type flux. Got one with l",
    ):
        closed_form_model(model, miniature[1])
    with pytest.raises(
        ForgetError, match="Expected the CLIP text encoders of Stable Diffusion, got one called 't5xxl'"
    ):
        ComfyModel(miniature[0], clip)
    with pytest.raises(ForgetError, match="Expected a CLIP of width 512 for this MODEL, got 64"):
        closed_form_model(model, tiny_flux.flux(64, 128)[1])


def test_a_patch_of_another_family_is_refused(flux, patch, miniature):
    with pytest.raises(ForgetError, match="Expected a patch for this architecture"):
        host.apply_patch(miniature[0], patch, 1.0)


def test_chips_show_the_tokens_of_t5(flux, monkeypatch):
    monkeypatch.setattr(connected, "tokenizer", lambda *node: flux[1].tokenizer)
    [row] = preview_tokens("", "1", "a photo of a zebra", "zebra", "object", "", "none")["rows"]
    assert [chip["text"] for chip in row["chips"] if chip["lit"]] == ["\u2581", "ze", "bra"]
    assert row["chips"][2]["text"] == "photo" and row["warnings"] == []


def test_diffusers_takes_the_patch_under_its_own_names(patch):
    diffusers = pytest.importorskip("diffusers")
    transformer = diffusers.FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=512, pooled_projection_dim=128,
        axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipeline = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), transformer=transformer, **parts
    )
    pipeline.load_lora_weights(diffusers_lora(patch))
    layers = {
        "lora_unet_txt_in": transformer.context_embedder,
        "lora_unet_vector_in_in_layer": transformer.time_text_embed.text_embedder.linear_1,
    }
    assert patch.factors.keys() == layers.keys()
    for name, layer in layers.items():
        torch.testing.assert_close(layer.get_delta_weight("default_0"), patch.factors[name].delta())


def test_diffusers_takes_a_patch_of_sd_3_under_its_own_names():
    diffusers = pytest.importorskip("diffusers")
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, num_layers=1, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32,
        pooled_projection_dim=64,
    )  # fmt: skip
    parts = dict.fromkeys(
        ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    )
    pipeline = diffusers.StableDiffusion3Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), transformer=transformer, **parts
    )
    layers = {
        "lora_unet_context_embedder": transformer.context_embedder,
        "lora_unet_y_embedder_mlp_0": transformer.time_text_embed.text_embedder.linear_1,
    }
    factors = {
        name: Factors(torch.randn(layer.out_features, 3), torch.randn(3, layer.in_features), 1.5)
        for name, layer in layers.items()
    }
    patch = ForgetPatch(factors, [], {}, {})
    pipeline.load_lora_weights(diffusers_lora(patch))
    wrapped = transformer.context_embedder, transformer.time_text_embed.text_embedder.linear_1
    for layer, factor in zip(wrapped, factors.values(), strict=True):
        torch.testing.assert_close(layer.get_delta_weight("default_0"), factor.delta())


def test_a_patch_of_stable_diffusion_is_no_matter_of_these_names():
    patch = ForgetPatch(
        {"lora_unet_mid_block_attn2_to_v": Factors(torch.ones(2, 1), torch.ones(1, 2), 1.0)}, [], {}, {}
    )
    with pytest.raises(
        ForgetError,
        match="Expected a patch of FLUX.1, Chroma or SD 3, got one with the layer lora_unet_mid_block_attn2_to_v",
    ):
        diffusers_lora(patch)

"""Training by gradient in models in which text and picture attend to one another, on random models of the host's classes."""

import dataclasses

import pytest
import tiny_flux
import tiny_transformers
import torch
from forget_me_not.nodes import host
from forget_me_not.nodes.adapter.transformer import ComfyTransformer, trained_model
from model_state import assert_untouched, state

from fmn_core.attacks.hardening import Hardening, forget_hardened
from fmn_core.attacks.search import Budget
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import Concept
from fmn_core.concepts.embedding_file import Embedding, load_embedding, save_embedding
from fmn_core.errors import ForgetError
from fmn_core.training.concept_prompts import concept_prompts
from fmn_core.training.forget import forget_by_gradient
from fmn_core.training.inversion import InversionSettings, invert_concept
from fmn_core.training.references import References, make_pairs
from fmn_core.training.settings import GradientSettings

PROMPT = "a photo of a house"
CONCEPT = Concept(["house"], "object", ["a photo of a {}"])
# Rows of "house" in PROMPT: T5 has no start token but two tokens for "a"; CLIP has one, and its 77 rows stand before T5's.
COLUMNS = {"FLUX.1": [6], "SD 3": [5, 77 + 6]}
SHAPE = (16, 8, 8)
SETTINGS = GradientSettings(
    steps=10, learning_rate=1e-2, preserve_prompts=["a table"], use_everyday_captions=False, preservation=0.0
)


@pytest.fixture(scope="module", params=sorted(COLUMNS))
def model(request):
    """Name, MODEL and CLIP."""
    made = tiny_flux.flux(128, 64) if request.param == "FLUX.1" else tiny_transformers.tiny(request.param)[:2]
    return request.param, *made


@pytest.fixture
def adapter(model, monkeypatch):
    monkeypatch.setattr(ComfyTransformer, "latent_shape", lambda self: SHAPE)
    return trained_model(*model[1:])


def noised(count=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sigma = torch.tensor([0.5, 2.0][:count])
    return torch.randn(count, *SHAPE, generator=generator) * (1 + sigma**2).sqrt().view(-1, 1, 1, 1), sigma


def test_predictions_are_those_of_the_host(model, adapter):
    """The host's sampler gives x_t = (1 - t) x0 + t e, where the method has x0 + sigma e."""
    _, patcher, clip = model
    (x, sigma), [prompt] = noised(), adapter.encode([PROMPT])
    t = sigma / (1 + sigma)
    context, pooled = clip.encode_from_tokens(clip.tokenize(PROMPT), return_pooled=True)
    conds = patcher.model.extra_conds(cross_attn=context, pooled_output=pooled, noise=x, device=torch.device("cpu"))
    inputs = {k: c.process_cond(batch_size=1, device=torch.device("cpu")).cond for k, c in conds.items()}
    with torch.no_grad():
        theirs = patcher.model.apply_model(x * (1 - t), t, **inputs)
        ours = adapter.denoise(x, sigma, [prompt])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert adapter.sigmas().isfinite().all() and (adapter.sigmas().diff() > 0).all()


def test_columns_and_probabilities(model, adapter, monkeypatch):
    """Against the whole softmax of the host's queries and keys."""
    name = model[0]
    prompts = concept_prompts(adapter, CONCEPT)
    # Each encoder's first end token follows the phrase.
    assert prompts.columns == [sorted(column + after for column in COLUMNS[name] for after in (0, 1))]
    seen, theirs = [], []

    def spy(q, k, v, heads, *args, skip_reshape=False, **kwargs):
        if not skip_reshape:
            q, k, v = (x.flatten(2).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        a = torch.softmax(q.double() @ k.double().mT / q.shape[-1] ** 0.5, -1)
        theirs.append(a[..., -16:, :-16].float())
        return (a @ v.double()).to(v.dtype).transpose(1, 2).flatten(2)

    (x, sigma), [prompt] = noised(), prompts.encoded
    with torch.no_grad(), adapter.probe_attention(lambda layer, a: seen.append(a)):
        adapter.denoise(x, sigma, [prompt])
    import comfy.ldm.flux.math
    import comfy.ldm.modules.diffusionmodules.mmdit

    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", spy)
    monkeypatch.setattr(comfy.ldm.modules.diffusionmodules.mmdit, "optimized_attention", spy)
    with torch.no_grad():
        adapter.denoise(x, sigma, [prompt])
    assert len(seen) == len(theirs) == len(adapter.attention_layers())
    for ours, whole in zip(seen, theirs, strict=True):
        torch.testing.assert_close(ours, whole, atol=2e-4, rtol=2e-3)


def test_scaled_columns_act_on_their_own_row_of_the_batch(adapter):
    prompts = concept_prompts(adapter, CONCEPT)
    (x, sigma), prompt = noised(2), prompts.encoded[0]
    weight = torch.zeros(2, len(prompt.whole_context))
    weight[1, prompts.columns[0]] = 1
    with torch.no_grad():
        plain = adapter.denoise(x, sigma, [prompt] * 2)
        with adapter.scale_columns(weight):
            scaled = adapter.denoise(x, sigma, [prompt] * 2)
    torch.testing.assert_close(scaled[0], plain[0], atol=1e-5, rtol=1e-5)
    assert (scaled[1] - plain[1]).abs().max() > 1e-3


def mass(adapter, prompt, columns):
    """Attention of the picture to some columns, summed over layers."""
    seen = []
    with torch.no_grad(), adapter.probe_attention(lambda layer, a: seen.append(float(a[..., columns].mean()))):
        adapter.denoise(*noised(), [prompt])
    return sum(seen)


@pytest.mark.parametrize("train", ["keys and values", "attn2", "whole UNet"])
def test_re_steering_lowers_the_attention_and_the_file_gives_the_same(model, adapter, train):
    _, patcher, clip = model
    before = state(patcher, clip)
    settings = dataclasses.replace(SETTINGS, train=train, visual_weight=0.0)
    with adapter.ready_for_gradients():
        patch = forget_by_gradient(adapter, [CONCEPT], [References(torch.zeros(1, *SHAPE))], settings)
    assert_untouched(patcher, clip, before)
    masses = patch.figures["mass"]
    assert sum(masses[-3:]) < 0.97 * sum(masses[:3]), masses
    patched, matched = host.apply_patch(patcher, patch, 1.0)
    assert matched == len(patch.factors) > 0
    [prompt] = adapter.encode([PROMPT])
    after = mass(trained_model(patched, clip), prompt, COLUMNS[model[0]])
    assert after < mass(adapter, prompt, COLUMNS[model[0]])


def test_visual_denoising_learns_its_pairs(model, adapter):
    _, patcher, clip = model
    prompts = concept_prompts(adapter, dataclasses.replace(CONCEPT, end_token="all"))
    settings = dataclasses.replace(SETTINGS, visual_weight=1.0, attention_weight=0.0, steps=60)
    with adapter.ready_for_gradients():
        pairs = make_pairs(adapter, prompts.encoded, prompts.columns, SHAPE, count=2, steps=3)
        assert not torch.equal(pairs.kept, pairs.zeroed)
        patch = forget_by_gradient(adapter, [CONCEPT], [References(pairs.kept)], settings, pairs=[pairs])
    patched = trained_model(host.apply_patch(patcher, patch, 1.0)[0], clip)
    (noise, sigma), distances = noised(2), []
    for subject in (adapter, patched):
        with torch.no_grad():
            predicted = subject.denoise(pairs.kept + noise, sigma, [prompts.encoded[n] for n in pairs.prompts])
        distances.append(float(((predicted - pairs.zeroed) ** 2).mean()))
    host.load(patcher)
    assert distances[1] < 0.97 * distances[0], distances


def test_inverted_vectors_of_every_encoder_get_gradients_and_a_file(adapter, tmp_path):
    references, settings = References(torch.randn(1, *SHAPE)), InversionSettings(steps=2, words="table", tokens=2)
    with adapter.ready_for_gradients(text=True):
        inversion = invert_concept(adapter, references, ["a photo of {}"], settings)
    start = adapter.vector_tokens("table")
    assert set(inversion.embedding) == set(start) == set(adapter.token_embeddings())
    for name, vectors in inversion.embedding.items():
        first = adapter.token_embeddings()[name][start[name][0]].float()
        assert vectors.shape == (2, len(first)) and not torch.equal(vectors[0], first)
    save_embedding(Embedding(inversion.embedding), tmp_path / "it.safetensors")
    loaded = load_embedding(tmp_path / "it.safetensors", {n: v.shape[1] for n, v in inversion.embedding.items()})
    assert all(torch.equal(loaded.vectors[n], v) for n, v in inversion.embedding.items())


def test_a_closed_form_between_attacks(monkeypatch):
    monkeypatch.setattr(ComfyTransformer, "latent_shape", lambda self: SHAPE)
    adapter = trained_model(*tiny_flux.flux(128, 64))
    settings = ClosedFormSettings(imagined_words=0, vocabulary_words=0, use_everyday_captions=False)
    hardening = Hardening(rounds=1, budget=Budget(steps=2))
    before = state(adapter.patcher, adapter.clip)
    with adapter.ready_for_gradients(text=True):
        patch = forget_hardened(adapter, [CONCEPT], [References(torch.zeros(1, *SHAPE))], settings, hardening)
    assert_untouched(adapter.patcher, adapter.clip, before)
    plain = forget_closed_form(adapter, [CONCEPT], settings)
    assert set(patch.factors) == set(plain.factors) == {"lora_unet_txt_in", "lora_unet_vector_in_in_layer"}
    # The rounds found vectors, which the last solve has led away, too.
    assert all((f.delta() - plain.factors[name].delta()).norm() > 1e-3 for name, f in patch.factors.items())


@pytest.mark.parametrize("train", ["values", "keys"])
def test_keys_and_values_are_one_layer(adapter, train):
    with pytest.raises(ForgetError, match=f"keys and values, attn2, whole UNet .*got '{train}'"):
        adapter.trained_layers(train)


def test_refused_before_anything_is_encoded(monkeypatch):
    patcher, clip, _ = tiny_transformers.tiny("Wan")
    monkeypatch.setattr(clip, "tokenize", None)
    with pytest.raises(ForgetError, match=r"FLUX\.1, SD 3, which can be trained by gradient, got Wan"):
        trained_model(patcher, clip)

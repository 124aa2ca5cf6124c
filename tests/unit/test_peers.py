"""The peers' algebra against least squares and by hand; that they run on diffusers pipelines, and put weights back."""

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import tiny_pipelines
import torch
from least_squares import drawn, stacked_least_squares

from bench.peers import PEERS, concept_ablation, esd, fmn, mace, mace_attention, null_space, rece, spm, tune, uce
from bench.peers.adapters import Adapters
from bench.peers.denoising import output_error, partly_sampled, predicted
from bench.peers.peer_prompts import Forgotten, paired_prompts, phrase_in_templates
from bench.peers.settings import FILE, PUBLISHED, miniature_settings
from bench.peers.weights import in_place, in_training
from fmn_core.adapters.diffusers_model import DiffusersModel
from fmn_core.model.tokens import EncodedPrompt, Vocabulary
from tools import comfy_host

CONCEPTS = [Forgotten("cat", "object"), Forgotten("noto", "style")]
QUICK = {
    fmn: fmn.Settings(steps=1, rate=1e-3),
    esd: esd.Settings(iterations=1, rate=1e-3, sampling_steps=3),
    concept_ablation: concept_ablation.Settings(steps=1, batch=2, rate=1e-3, pictures=2, sampling_steps=2),
    mace: mace.Settings(steps=2, rate=1e-2, prompts=3, pictures=1, sampling_steps=2),
    uce: uce.Settings(),
    rece: rece.Settings(rounds=2),
    null_space: null_space.Settings(threshold=0.5, relative=True),
}
QUICK_SPM = spm.Settings(iterations=2, rate=1e-2, sampling_steps=3, warm_up=0.0, anchors=2)


@pytest.fixture(scope="module")
def adapter():
    comfy_host.activate()  # diffusers needs its shims where only CPU builds of torch exist
    return DiffusersModel(tiny_pipelines.sd2())


@pytest.fixture(scope="module")
def adapter_xl():
    comfy_host.activate()
    return DiffusersModel(tiny_pipelines.sdxl())


def state_of(adapter):
    return {n: p.detach().clone() for n, p in adapter.unet.named_parameters()}


def assert_as_before(adapter, before):
    for name, p in adapter.unet.named_parameters():
        assert torch.equal(p, before[name]), name
        assert p.grad is None


# --- closed forms ---


def test_mace_fuses_by_least_squares():
    w, changes, contexts = drawn(5, 8), drawn(2, 5, 8, seed=1), drawn(2, 12, 8, seed=2)
    kept = drawn(3, 8, seed=3)
    fused = mace.fused(w, [(d, e.T @ e) for d, e in zip(changes, contexts)], [(0.2, kept, kept)], 0.7)
    parts = [(1.0, e, e @ (w + d).T) for d, e in zip(changes, contexts)]
    parts += [(0.2, kept, kept @ w.T), (0.7, torch.eye(8).double(), w.T)]
    torch.testing.assert_close(fused, stacked_least_squares(parts), rtol=1e-9, atol=1e-9)


def test_mace_refines_the_words_beside_the_concept(adapter):
    settings = mace.Settings(mapped_to="fire engine", prompts=2)
    for template, (weight, sources, targets) in zip(
        ("a photo of a {}", "a picture of a {}"), mace.context_word_rows(adapter, CONCEPTS[0], settings), strict=True
    ):
        named, mapped = adapter.encode([template.format("cat"), template.format("fire engine")])
        assert weight == 1.0
        torch.testing.assert_close(sources, torch.cat([named.context[:5], named.context[6:76]]))
        torch.testing.assert_close(targets, torch.cat([mapped.context[:5], mapped.context[7:77]]))


def test_the_miniatures_settings_are_what_the_search_tries():
    chosen = {name: peer["settings"] for name, peer in json.loads(FILE.read_text())["peers"].items()}
    assert set(chosen) == set(tune.CANDIDATES) == set(PEERS) == set(PUBLISHED)
    assert all(settings in tune.CANDIDATES[name] for name, settings in chosen.items())
    assert miniature_settings("FMN, released rate") == fmn.Settings(steps=35, rate=2e-6)
    assert miniature_settings("FMN, searched rate").rate > 2e-6
    contexts = {name for name, published in PUBLISHED.items() if getattr(published, "our_contexts", False)}
    assert contexts == {f"{name}, our contexts" for name in ("UCE", "RECE", "ESD-x", "SPEED")}


def test_mace_draws_its_timesteps_between_200_and_400():
    weights = mace_attention.timestep_weights(1000)
    assert weights.argmax() == 300 and weights[200:401].sum() / weights.sum() > 0.85
    assert weights[100] == pytest.approx(1 / (1 + math.exp(5)) - 1 / (1 + math.exp(15)))


# --- targets and losses ---


def test_esd_steers_eps_away_from_the_concept():
    x, sigma, eta = drawn(1, 4, 2, 2), 1.7, 1.3
    none, named = drawn(1, 4, 2, 2, seed=1), drawn(1, 4, 2, 2, seed=2)
    found = (x - esd.steered(x - sigma * none, x - sigma * named, eta)) / sigma
    torch.testing.assert_close(found, none - eta * (named - none))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_error_is_that_of_the_networks_own_output(prediction):
    model = SimpleNamespace(
        pipeline=SimpleNamespace(scheduler=SimpleNamespace(config=SimpleNamespace(prediction_type=prediction)))
    )
    noise, sigma = drawn(2, 4, 3, 3), torch.tensor([0.4, 3.0])
    s, clean = sigma.double().view(-1, 1, 1, 1), drawn(2, 4, 3, 3, seed=1)
    x = clean + s * noise

    def output(x0):
        eps = (x - x0) / s
        return eps if prediction == "epsilon" else (eps - s * x0) / (1 + s**2).sqrt()

    other = clean + 0.1 * drawn(2, 4, 3, 3, seed=2)
    wanted = ((output(other) - output(clean)) ** 2).mean()
    torch.testing.assert_close(output_error(model, other, clean, sigma), wanted)


def test_esd_in_our_contexts_trains_on_every_template(adapter, monkeypatch):
    trained, denoise = [], adapter.denoise
    monkeypatch.setattr(adapter, "denoise", lambda x, s, prompts: trained.extend(prompts) or denoise(x, s, prompts))
    settings = esd.Settings(iterations=12, sampling_steps=1, our_contexts=True)
    first = esd.forget(adapter, CONCEPTS[:1], settings, seed=3)
    texts = {p.text for p in trained} - {""}
    assert texts <= set(phrase_in_templates(CONCEPTS[0])) and len(texts) > 5
    again = esd.forget(adapter, CONCEPTS[:1], settings, seed=3)
    assert all(torch.equal(w, again[n]) for n, w in first.items())
    trained.clear()
    esd.forget(adapter, CONCEPTS[:1], esd.Settings(iterations=3, sampling_steps=1))
    assert {p.text for p in trained} == {"", "cat"}


def test_a_partial_sampling_follows_the_whole_one(adapter):
    cat, empty = adapter.encode(["cat", ""])
    x, sigma = partly_sampled(adapter, cat, empty, 4, 2, 3.0, torch.Generator().manual_seed(5))
    levels = adapter.sigmas()[[999, 749, 499]]
    by_hand = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)) * (1 + levels[0] ** 2).sqrt()
    for here, following in itertools.pairwise(levels):
        with torch.no_grad():
            named, none = (predicted(adapter, by_hand, here.view(1), [p]) for p in (cat, empty))
        eps = (by_hand - (none + 3.0 * (named - none))) / here
        by_hand = by_hand + (following - here) * eps
    assert sigma == levels[2]
    torch.testing.assert_close(x, by_hand, rtol=1e-2, atol=5e-3)  # float32 through a random network


def test_styles_are_left_out_of_their_own_prompts():
    pairs = paired_prompts(CONCEPTS[1], "", 3)
    assert len(pairs) == 3
    assert all("noto" in named and "noto" not in without and "style" not in without for named, without in pairs)
    assert paired_prompts(CONCEPTS[0], "dog", 1) == [("a photo of a cat", "a photo of a dog")]


# --- SPM ---


def prompt_with(ids, *rows):
    chunk = [49406, *ids, *[49407] * (7 - len(ids))]
    return EncodedPrompt("", {"l": [chunk]}, torch.tensor(rows))


def test_transport_is_the_larger_of_cosine_and_token_overlap():
    erased = prompt_with([1, 2], [1.0, 0.0], [0.0, 1.0])
    far = prompt_with([3], [-1.0, 0.0], [0.0, -1.0])
    half = prompt_with([2, 5], [-1.0, 0.0], [0.0, -1.0])
    near = prompt_with([3], [1.0, 0.0], [0.0, 0.0])
    values = [spm.transport(p, erased, Vocabulary()) for p in (erased, far, half, near)]
    assert values == pytest.approx([1.0, 0.0, 0.5, math.sqrt(0.5)])


def test_anchors_are_drawn_around_the_concept():
    prompt = prompt_with([1], *torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).tolist())
    found = spm.random_anchors(prompt, 20, torch.Generator().manual_seed(1))
    ratios = [float(p.context.norm() / prompt.context.norm()) for p in found]
    assert len(found) == 20 and min(ratios) >= 0.8 and max(ratios) <= 1.2 and max(ratios) - min(ratios) > 0.2


def test_the_rate_warms_up_and_restarts():
    settings = spm.Settings(iterations=120, warm_up=0.25, restarts=3)
    factors = [spm.rate_factor(step, settings) for step in (0, 15, 30, 45, 60, 90)]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 0.5, 1.0, 1.0])


def test_adapters_are_as_strong_as_asked_for_each_picture():
    layers = {"linear": torch.nn.Linear(3, 5), "conv": torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)}
    adapters = Adapters(layers, 2, 0)
    for up in adapters.up.values():
        up.copy_(torch.randn(up.shape, generator=torch.Generator().manual_seed(1)))
    strength = torch.tensor([0.0, 1.0, 0.5])
    inputs = {"linear": torch.randn(6, 7, 3), "conv": torch.randn(6, 3, 8, 8)}
    for name, layer in layers.items():
        plain = layer(inputs[name])
        with adapters.applied(strength):
            found = layer(inputs[name])
        change = torch.einsum("or,r...->o...", adapters.up[name], adapters.down[name])
        for k, s in enumerate([0.0, 1.0, 0.5] * 2):
            merged = {"weight": layer.weight + s * change, "bias": layer.bias}
            wanted = torch.func.functional_call(layer, merged, inputs[name][k : k + 1])
            torch.testing.assert_close(found[k : k + 1], wanted, rtol=1e-4, atol=1e-5)
        assert torch.equal(layer(inputs[name]), plain)


# --- on pipelines ---


@pytest.mark.parametrize("module", QUICK, ids=lambda m: m.__name__.split(".")[-1])
def test_a_peer_changes_what_it_says_and_puts_the_weights_back(adapter, module):
    before = state_of(adapter)
    changed = module.forget(adapter, CONCEPTS, QUICK[module], seed=0, preserve=["owl"])
    assert_as_before(adapter, before)
    different = {n for n, w in changed.items() if not torch.equal(w, before[n])}
    assert different and all(w.isfinite().all() for w in changed.values())
    if module in (uce, rece, mace, concept_ablation):
        assert all(".attn2.to_k." in n or ".attn2.to_v." in n for n in changed)


@pytest.mark.parametrize("cross", [True, False])
def test_esd_trains_its_own_part(adapter, cross):
    settings = esd.Settings(cross, iterations=1, rate=1e-3, sampling_steps=2)
    changed = esd.forget(adapter, CONCEPTS[:1], settings)
    assert changed and all((".attn2." in n) == cross for n in changed)


@pytest.mark.parametrize("module", [fmn, esd, concept_ablation, mace], ids=lambda m: m.__name__.split(".")[-1])
@pytest.mark.parametrize("after", [1, 12])
def test_weights_are_put_back_after_an_error(adapter, module, after, monkeypatch):
    before, calls, denoise = state_of(adapter), [], adapter.denoise

    def failing(*args):
        calls.append(1)
        if len(calls) >= after:
            raise RuntimeError("stopped")
        return denoise(*args)

    monkeypatch.setattr(adapter, "denoise", failing)
    settings = {name: 20 for name in ("steps", "iterations") if hasattr(QUICK[module], name)}
    with pytest.raises(RuntimeError, match="stopped"):
        module.forget(adapter, CONCEPTS, type(QUICK[module])(**{**vars(QUICK[module]), **settings}), preserve=["owl"])
    assert_as_before(adapter, before)


def test_spm_leaves_the_model_alone_and_changes_its_pictures(adapter):
    before, [cat] = state_of(adapter), adapter.encode(["cat"])
    x, sigma = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0])
    with torch.no_grad():
        plain = predicted(adapter, x, sigma, [cat])
        trained = spm.train(adapter, CONCEPTS[0], QUICK_SPM)
        with trained.applied():
            changed = predicted(adapter, x, sigma, [cat])
        assert torch.equal(predicted(adapter, x, sigma, [cat]), plain)
    assert not torch.equal(changed, plain)
    assert_as_before(adapter, before)
    assert all(d.shape[0] == 1 and ".attentions." in n for n, d in trained.down.items())


def test_peers_run_on_sdxl(adapter_xl):
    before = state_of(adapter_xl)
    for module in (esd, mace, uce):
        assert module.forget(adapter_xl, CONCEPTS[:1], QUICK[module])
    spm.train(adapter_xl, CONCEPTS[0], QUICK_SPM)
    assert_as_before(adapter_xl, before)


def test_weights_in_training_and_in_place_come_back_after_an_error(adapter):
    before = state_of(adapter)
    with pytest.raises(ValueError), in_training(adapter, lambda name: ".attn2." in name) as weights:
        with torch.no_grad():
            for p in weights.parameters:
                p.add_(1.0)
        with weights.frozen():
            name, p = next((n, p) for n, p in adapter.unet.named_parameters() if ".attn2." in n)
            assert torch.equal(p, before[name])
        assert torch.equal(p, before[name] + 1)
        raise ValueError
    assert_as_before(adapter, before)
    with pytest.raises(ValueError), in_place(adapter.unet, {n: w + 1 for n, w in before.items()}):
        assert torch.equal(p, before[name] + 1)
        raise ValueError
    assert_as_before(adapter, before)

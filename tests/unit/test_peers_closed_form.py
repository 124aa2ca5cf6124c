"""UCE, RECE and SPEED against least squares, and in this pack's contexts."""

import math

import pytest
import tiny_pipelines
import torch
from least_squares import drawn, stacked_least_squares

from bench.peers import null_space, rece, uce
from bench.peers.peer_prompts import Forgotten, default_preserve_set, phrase_in_templates
from bench.peers.weights import keys_and_values
from fmn_core.adapters.diffusers_model import DiffusersModel
from fmn_core.concepts.preserve import IMAGINED_WORDS
from fmn_core.concepts.templates import default_templates, everyday_captions
from tools import comfy_host

CONCEPTS = [Forgotten("cat", "object"), Forgotten("noto", "style")]


@pytest.fixture(scope="module")
def adapter():
    comfy_host.activate()  # diffusers needs its shims where only CPU builds of torch exist
    return DiffusersModel(tiny_pipelines.sd2())


def test_an_input_edit_is_the_least_squares_solution():
    w, sources, targets, kept = drawn(5, 8), drawn(3, 8, seed=1), drawn(3, 8, seed=2), drawn(4, 8, seed=3)
    edit = uce.input_edit([(1.0, sources, targets), (0.1, kept, kept)], 0.5)
    parts = [(1.0, sources, targets @ w.T), (0.1, kept, kept @ w.T), (0.5, torch.eye(8).double(), w.T)]
    torch.testing.assert_close(w @ edit, stacked_least_squares(parts), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("last_row_only", [False, True])
def test_uce_solves_its_equation_on_a_pipeline(adapter, last_row_only):
    settings = uce.Settings(guide="a big dog", preserve_scale=0.3, last_row_only=last_row_only)
    changed = uce.forget(adapter, CONCEPTS[:1], settings, preserve=["owl"])
    assert set(changed) == {n for n, _ in adapter.unet.named_parameters() if ".attn2.to_k" in n or ".attn2.to_v" in n}
    cat, dog, owl = (p.context.double() for p in adapter.encode(["cat", "a big dog", "owl"]))
    # "cat" ends in row 1, "a big dog" in row 3: 74 rows from there on have a counterpart
    count = 1 if last_row_only else 74
    c, t, p = cat[1 : 1 + count], dog[3 : 3 + count], owl[1:2] if last_row_only else owl
    for name, w in keys_and_values(adapter).items():
        parts = [(1.0, c, t @ w.T), (0.3, p, p @ w.T), (0.5, torch.eye(c.shape[1]).double(), w.T)]
        torch.testing.assert_close(changed[name].double(), stacked_least_squares(parts), rtol=1e-4, atol=1e-5)


def test_an_adversarial_embedding_revives_the_concept_best():
    weights, edit, c = drawn(3, 6, 8), torch.eye(8).double() + 0.3 * drawn(8, 8, seed=1), drawn(8, seed=2)
    gram = sum(w.T @ w for w in weights)
    found = rece.adversarial(edit, gram, 0.05) @ c
    rows = torch.cat([*(w @ edit for w in weights), math.sqrt(0.05) * torch.eye(8).double()])
    wanted = torch.cat([*(w @ c for w in weights), torch.zeros(8).double()])
    torch.testing.assert_close(found, torch.linalg.lstsq(rows, wanted[:, None]).solution[:, 0])


def test_speed_solves_its_equation_within_the_null_space_and_keeps_the_invariants():
    """Against a solve in a basis of the directions that are left."""
    w, concepts, anchors, kept = drawn(5, 10), drawn(2, 10, seed=1), drawn(2, 10, seed=2), drawn(2, 10, seed=4)
    retained = drawn(20, 4, seed=3) @ drawn(4, 10, seed=5)
    moments = concepts.T @ concepts / 2, anchors.T @ concepts / 2
    settings = null_space.Settings(threshold=1e-6, relative=True, retain_scale=0.3)
    changed = null_space.edited(w, moments, retained, kept, settings)
    free = torch.linalg.svd(torch.cat([retained, kept])).Vh[6:].T
    right = w @ (moments[1] - moments[0]) @ free
    wanted = right @ torch.linalg.inv(free.T @ moments[0] @ free + 0.3 * torch.eye(4).double()) @ free.T
    torch.testing.assert_close(changed - w, wanted, rtol=1e-7, atol=1e-8)
    assert ((changed - w) @ torch.cat([retained, kept]).T).abs().max() < 1e-8


def test_speed_filters_and_adds_rows():
    w, rows, shift = drawn(3, 6), drawn(8, 6, seed=1), drawn(3, 6, seed=2)
    generator = torch.Generator().manual_seed(0)
    found = null_space.retained_rows(w, rows, shift, null_space.Settings(added=2), generator)
    moved = (rows @ shift.T).norm(dim=1)
    strong = rows[moved >= moved.mean()]
    assert torch.equal(found[: len(strong)], strong) and len(strong) < len(found) <= 3 * len(strong)
    least = torch.linalg.svd(w).Vh[-1]
    for row in found[len(strong) :]:
        offsets = row - strong
        assert min((o - (o @ least) * least).norm() for o in offsets) < 1e-9
    whole = null_space.retained_rows(w, rows, shift, null_space.Settings(added=0, filtered=False), generator)
    assert torch.equal(whole, rows)


def test_rece_without_rounds_is_uce_and_with_rounds_erases_the_revived(adapter):
    plain = uce.forget(adapter, CONCEPTS, rece.Settings(), preserve=["", "owl"])
    none = rece.forget(adapter, CONCEPTS, rece.Settings(rounds=0), preserve=["owl"])
    some = rece.forget(adapter, CONCEPTS, rece.Settings(rounds=2), preserve=["owl"])
    assert all(torch.equal(plain[n], none[n]) for n in plain)
    assert any(not torch.allclose(none[n], some[n], rtol=1e-3) for n in plain)


def test_the_rounds_of_rece_have_a_ridge_of_their_own(adapter):
    settings = rece.Settings(preserve_scale=0.3, regular_scale=0.02)
    assert (settings.ridge, settings.round_ridge, settings.rounds) == (0.5, 0.1, 1)
    changed = rece.forget(adapter, CONCEPTS[:1], settings, preserve=["owl"])
    first = uce.forget(adapter, CONCEPTS[:1], uce.Settings(preserve_scale=0.3), preserve=["", "owl"])
    weights = {n: w.double() for n, w in keys_and_values(adapter).items()}
    cat, empty, owl = (p.context.double() for p in adapter.encode(["cat", "", "owl"]))
    stacked, edited = (torch.cat([w[n].double() for n in weights]) for w in (weights, first))
    system = edited.T @ edited + 0.02 * torch.eye(cat.shape[1]).double()
    revived = torch.linalg.solve(system, edited.T @ stacked @ cat.T).T
    for name, w in first.items():
        w = w.double()
        parts = [(1.0, revived, empty @ w.T), (0.3, empty, empty @ w.T), (0.3, owl, owl @ w.T)]
        parts.append((0.1, torch.eye(w.shape[1]).double(), w.T))
        torch.testing.assert_close(changed[name].double(), stacked_least_squares(parts), rtol=1e-3, atol=1e-4)


def test_uce_in_our_contexts_erases_the_templates_and_keeps_the_words_too(adapter):
    settings = uce.Settings(our_contexts=True, preserve_scale=0.3)
    prompts = phrase_in_templates(CONCEPTS[0])
    assert prompts == [t.replace("{}", "cat") for t in default_templates("object")]
    assert uce.erased_prompts(CONCEPTS[:1], settings) == prompts and len(set(prompts)) == len(prompts) > 5
    assert uce.erased_prompts(CONCEPTS[:1], uce.Settings()) == ["cat"]
    changed = uce.forget(adapter, CONCEPTS[:1], settings, preserve=["owl"])
    empty, owl, *named = adapter.encode(["", "owl", *prompts])
    words = default_preserve_set(adapter, CONCEPTS[:1], ["owl"])
    erased = [uce.erased_rows(adapter, prompt, empty, settings)[1:] for prompt in named]
    name, w = next(iter(keys_and_values(adapter).items()))
    parts = [(1.0, c.double(), t.double() @ w.T) for c, t in erased]
    parts += [(0.3, p.context.double(), p.context.double() @ w.T) for p in (owl, *words)]
    parts.append((0.5, torch.eye(w.shape[1]).double(), w.T))
    torch.testing.assert_close(changed[name].double(), stacked_least_squares(parts), rtol=1e-3, atol=1e-4)


def test_the_default_preserve_set_names_no_concept_and_no_prompt_twice(adapter):
    caption = everyday_captions()[0]
    concept = Forgotten(everyday_captions()[1].split()[-1], "object")
    texts = [p.text for p in default_preserve_set(adapter, [concept], ["", caption])]
    prompts = texts[:-IMAGINED_WORDS]
    captions, words = ([p for p in prompts if (p in everyday_captions()) == is_caption] for is_caption in (True, False))
    assert len(captions) > 40 and "" not in prompts and caption not in prompts and len(set(prompts)) == len(prompts)
    assert len(words) > 40 and all(word.startswith("a photo of a ") for word in words)
    assert not any(concept.phrase in p.split() for p in prompts)


def test_rece_in_our_contexts_starts_from_uce_in_them(adapter):
    plain = uce.forget(adapter, CONCEPTS[:1], uce.Settings(our_contexts=True), preserve=["", "owl"])
    none, some = (
        rece.forget(adapter, CONCEPTS[:1], rece.Settings(our_contexts=True, rounds=n), preserve=["owl"]) for n in (0, 1)
    )
    assert all(torch.equal(plain[n], none[n]) for n in plain)
    assert all(w.isfinite().all() and not torch.allclose(w, none[n], rtol=1e-3) for n, w in some.items())

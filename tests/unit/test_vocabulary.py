"""Words of the vocabulary near a concept: synonyms, neighbours to keep, and what the solve does with them."""

import pytest
import torch
from toy_model import WORDS, ToyModel

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import FORGOTTEN, IGNORED, ClosedFormSettings
from fmn_core.closed_form.vocabulary import SYNONYM, related_words, with_synonyms
from fmn_core.compose.recorded import recorded_words
from fmn_core.concepts.concept import Concept
from fmn_core.model.tokens import whole_words
from fmn_core.patch.file import load_patch, save_patch

TEMPLATES = ["a photo of a {}", "a {} in the park"]


@pytest.fixture
def model():
    """The toy, in which "horse" means what "zebra" means."""
    model = ToyModel()
    model.table[model.ids("horse")[0]] = model.table[model.ids("zebra")[0]] * 1.01
    return model


@pytest.fixture
def zebra():
    return Concept(["zebra"], "object", TEMPLATES)


def test_whole_words_of_both_kinds_of_tokenizer():
    spellings = {
        0: "a</w>",
        1: "cat</w>",
        2: "cat",
        3: "\u2581dog",
        4: "dog",
        5: "1992</w>",
        6: "Dog</w>",
        7: "it's</w>",
    }
    assert whole_words(spellings) == {1: "cat", 3: "dog"}


def test_a_word_that_acts_alike_is_a_synonym_and_others_are_kept(model, zebra):
    related = related_words(model, [zebra], 30)
    assert set(related.synonyms) == {"horse", "zebras"} and related.synonyms["horse"][1] > 0.99
    assert set(related.kept()) == set(WORDS) - {"zebra", "horse", "zebras"}
    assert all(similarity < SYNONYM for similarity in related.neighbours.values())
    assert related_words(model, [zebra], 0).kept() == []


def test_similarity_is_the_cosine_of_what_the_values_layers_make_of_the_words(model, zebra):
    related = related_words(model, [zebra], 30)
    words = [w for w in WORDS if w != "zebra"]
    rows = {w: model.encode([f"a photo of a {w}"], padding=1)[0].context[-1] for w in WORDS}
    bare = model.encode(["a photo of a"], padding=1)[0].context[-1]
    weights = model.weights([(layer.name, "to_v") for layer in model.cross_attention()])
    effect = {w: torch.cat([(m / m.norm()) @ (row - bare) for m in weights]) for w, row in rows.items()}
    mean = torch.stack([effect[w] for w in words]).mean(0)
    for word in ("horse", *related.neighbours):
        cosine = torch.cosine_similarity(effect[word] - mean, effect["zebra"] - mean, dim=0)
        measured = related.synonyms[word][1] if word == "horse" else related.neighbours[word]
        assert measured == pytest.approx(float(cosine), abs=1e-5)


def test_words_of_one_concept_are_not_kept_against_another(model, zebra):
    related = related_words(model, [zebra, Concept(["red barn"], "object", TEMPLATES)], 30)
    assert not {"zebra", "red", "barn"} & {*related.kept(), *related.synonyms}


def test_synonyms_are_named_forgotten_or_ignored(model, zebra, tmp_path):
    named, forgotten, ignored = (
        forget_closed_form(model, [zebra], ClosedFormSettings(imagined_words=8, **settings))
        for settings in ({}, {"synonyms": FORGOTTEN}, {"synonyms": IGNORED})
    )
    assert set(named.figures["synonyms"]) == {"horse", "zebras"} and named.concepts[0]["phrases"] == ["zebra"]
    assert forgotten.concepts[0]["phrases"] == ["zebra", "horse", "zebras"]
    assert "synonyms" not in ignored.figures
    for name, factors in named.factors.items():
        torch.testing.assert_close(ignored.factors[name].delta(), factors.delta(), rtol=0, atol=0)
    assert zebra.phrases == ["zebra"]
    save_patch(named, tmp_path / "zebra.safetensors")
    stored = load_patch(tmp_path / "zebra.safetensors")
    assert (
        recorded_words(stored) == named.settings["kept_words"]
        and stored.figures["synonyms"] == named.figures["synonyms"]
    )


def test_a_known_synonym_is_not_added_twice(model):
    concept = Concept(["zebra", "Horse"], "object", TEMPLATES)
    assert with_synonyms([concept], related_words(model, [concept], 30))[0].phrases == ["zebra", "Horse", "zebras"]


def test_longer_names_that_are_kept_are_in_the_patchs_file(model, zebra, tmp_path):
    settings = ClosedFormSettings(preserve_prompts=["red zebra", "park"], imagined_words=8)
    patch = forget_closed_form(model, [zebra], settings)
    save_patch(patch, tmp_path / "a.safetensors")
    assert load_patch(tmp_path / "a.safetensors").figures["kept_names"] == ["red zebra"]
    assert "kept_names" not in forget_closed_form(model, [zebra], ClosedFormSettings(imagined_words=8)).figures

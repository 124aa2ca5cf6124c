"""The form of a patch's metadata: what this tool wrote loads unchanged, every other field counts as absent."""

import json

import pytest
import torch

from fmn_core.concepts.concept import Concept, packed_vectors
from fmn_core.concepts.file_fields import read_fingerprint
from fmn_core.concepts.limits import MOST_NAMES, MOST_PHRASES
from fmn_core.patch import schema as patch_schema
from fmn_core.patch.file import load_metadata, load_patch, save_patch
from fmn_core.patch.patch import Factors, ForgetPatch

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v"
VECTORS = packed_vectors(torch.ones(2, 3))
ZEBRA = {"phrases": ["zebra"], "kind": "object"}
WRITTEN = {
    "a phrase": [ZEBRA],
    "templates and an end token": [{**ZEBRA, "templates": ["a {}", "{}"], "end_token": "all"}],
    "an inverted concept": [{"phrases": [], "kind": "style", "vectors": 2, "embedding": {"l": VECTORS, "g": VECTORS}}],
    "vectors that were not saved": [{"phrases": [], "kind": "object", "vectors": 4}],
    "a correction": [{"phrases": [], "kind": "object", "corrects": "apple", "contexts": ["green apple"]}],
    "many": [{"phrases": [f"word {n}"], "kind": "unsafe"} for n in range(MOST_NAMES)],
    "an early file": [{"phrases": ["zebra"]}],
}


@pytest.mark.parametrize("case", WRITTEN)
def test_what_this_tool_wrote_is_read_unchanged(case):
    assert patch_schema.read_concepts(json.dumps(WRITTEN[case])) == WRITTEN[case]


def test_a_concept_with_everything_is_read_as_it_was():
    concept = Concept(["zebra", "猫"], "identity", ["{} x"], {"l": torch.randn(3, 8)}, end_token="none")
    assert patch_schema.read_concepts(json.dumps([concept.as_dict()])) == [concept.as_dict()]


BAD_CONCEPTS = {
    "no list": {"phrases": ["zebra"]},
    "no phrases": [{"kind": "object"}],
    "phrases as a text": [{"phrases": "zebra"}],
    "a phrase that is a number": [{"phrases": [1]}],
    "a line break in a phrase": [{"phrases": ["zebra\nmatched 16 of 16 layers"]}],
    "a line separator in a phrase": [{"phrases": ["zebra\u2028matched 16 of 16 layers"]}],
    "a surrogate": [{"phrases": ["\ud800"]}],
    "an unknown kind": [{**ZEBRA, "kind": "weapon"}],
    "an unknown end token": [{**ZEBRA, "end_token": "some"}],
    "a long phrase": [{"phrases": ["x" * 1_000_000]}],
    "too many phrases": [{"phrases": [str(n) for n in range(MOST_PHRASES + 1)]}],
    "too many concepts": [ZEBRA] * (MOST_NAMES + 1),
    "too many phrases together": [{"phrases": [str(n) for n in range(MOST_PHRASES)]}] * 11,
    "corrects without contexts": [{**ZEBRA, "corrects": "apple"}],
    "contexts that are no list": [{**ZEBRA, "corrects": "apple", "contexts": "green apple"}],
    "an unknown encoder": [{"phrases": [], "embedding": {"t5": VECTORS}}],
    "vectors of another size": [{"phrases": [], "embedding": {"l": {**VECTORS, "shape": [2, 4]}}}],
    "vectors that are not finite": [{"phrases": [], "embedding": {"l": packed_vectors(torch.full((1, 2), torch.inf))}}],
    "one bad among good": [ZEBRA, 3],
}


@pytest.mark.parametrize("case", BAD_CONCEPTS)
def test_concepts_of_another_form_count_as_none(case):
    assert patch_schema.read_concepts(json.dumps(BAD_CONCEPTS[case])) == []


def test_unknown_keys_of_a_concept_are_dropped():
    strange = {**ZEBRA, "x": {"y": [1]}, "embedding": {"l": {**VECTORS, "more": "x"}}}
    assert patch_schema.read_concepts(json.dumps([strange])) == [{**ZEBRA, "embedding": {"l": VECTORS}}]


BASE = {"architecture": "unet-2x5", "context_dim": 5, "shapes": [[6, 5]], "norms": [1.5]}


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({}, set()),
        ({"architecture": "\ud800"}, set(BASE)),
        ({"architecture": ["x"]}, {"architecture"}),
        ({"architecture": "x" * 1000}, {"architecture"}),
        ({"norms": ["x"]}, {"norms"}),
        ({"norms": [None]}, {"norms"}),
        ({"norms": 3}, {"norms"}),
        ({"norms": [1.0, 2.0]}, {"norms"}),
        ({"norms": [float("nan")]}, {"norms"}),
        ({"shapes": [["a"]]}, {"shapes"}),
        ({"shapes": [[6, 5]] * 100_000}, {"shapes"}),
        ({"context_dim": -1}, {"context_dim"}),
        ({"context_dim": True}, {"context_dim"}),
        ({"unknown": 1}, set()),
    ],
)
def test_the_base_keeps_its_well_formed_fields(changes, missing):
    found = read_fingerprint(json.dumps({**BASE, **changes}))
    assert found == {k: v for k, v in {**BASE, **changes}.items() if k in set(BASE) - missing}


def test_figures_and_settings_are_finite_and_keep_what_a_later_version_adds():
    good = {
        "held_out_missed": 0.5,
        "losses": [1.0, 0.5],
        "drift": [[10, 0.1]],
        "later": {"a": [1, 2.5, None, True, "x"]},
    }
    assert patch_schema.read_figures(json.dumps(good)) == good
    assert json.dumps(patch_schema.read_figures(json.dumps(good))) == json.dumps(good)
    for bad in ("NaN", "1e999", "-Infinity", "[1e999]", '{"a": NaN}', "1e300", "1" + "0" * 400, "[" * 50 + "]" * 50):
        text = f'{{"held_out_missed": {bad}, "other": {bad}, "rank": 4}}'
        assert patch_schema.read_figures(text) == patch_schema.read_settings(text) == {"rank": 4}, bad
    assert patch_schema.read_figures('{"losses": [1, "x"], "mass": 3, "drift": [[1]], "rank": 4}') == {"rank": 4}
    assert patch_schema.read_settings('{"method": {}, "target": 1, "preserve_prompts": "x", "rank": 4}') == {"rank": 4}


@pytest.mark.parametrize(
    "text", ["", "null", "[1]", "NaN", "{", "[" * 2_000_000, '{"a":' * 100_000, '"' + "x" * 5_000_000 + '"']
)
def test_text_that_is_no_object_says_nothing(text):
    for read in (read_fingerprint, patch_schema.read_figures, patch_schema.read_settings):
        assert read(text) == {}
    assert patch_schema.read_concepts(text) == patch_schema.read_parts(text) == []


def test_a_file_says_the_same_after_it_was_read_and_saved_again(tmp_path):
    factors = {NAME: Factors(torch.ones(6, 2).half(), torch.ones(2, 5).half(), 2.0)}
    about = {"title": "Zebra, gone", "author": "me", "notes": "two\nlines", "preview": "data:image/jpeg;base64,AAAA"}
    part = {"concepts": 1, "ranks": {NAME: 2}, "settings": {"method": "closed form"}, "figures": {"rank": 2}}
    for concepts in WRITTEN.values():
        patch = ForgetPatch(
            factors,
            concepts,
            BASE,
            {"rank": 2, "attack": {"budget": {"steps": 3}}},
            {"losses": [1.0, 2]},
            about,
            "tool 1",
            [part],
        )
        save_patch(patch, tmp_path / "a.safetensors")
        save_patch(load_patch(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
        assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
        listed = load_metadata(tmp_path / "b.safetensors")
        assert (listed.concepts, listed.base, listed.about) == (concepts, BASE, about)

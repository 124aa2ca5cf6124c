"""What a gate looks for, from a patch's metadata."""

import pytest
import torch

from fmn_core.compose.recorded import gated_concepts
from fmn_core.concepts.concept import Concept
from fmn_core.errors import ForgetError
from fmn_core.patch.patch import Factors, ForgetPatch


def patch_of(*phrases, **fields):
    concepts = [Concept([phrase], "object", ["a {}"]).as_dict() for phrase in phrases]
    return ForgetPatch(
        {"a": Factors(torch.ones(2, 1), torch.ones(1, 2), 1.0)}, concepts, {}, **({"settings": {}} | fields)
    )


def phrases_of(patch):
    return [concept.phrases for concept in gated_concepts(patch)]


def test_synonyms_that_the_training_named_are_looked_for_too():
    figures = {"synonyms": {"kitten": 0.95, "Cat": 0.99}, "neighbours": {"tiger": 0.6}}
    assert phrases_of(patch_of("cat", figures=figures)) == [["cat", "kitten"]]
    assert phrases_of(patch_of("cat", "car", figures=figures)) == [["cat", "kitten"], ["car"]]
    assert phrases_of(patch_of("cat")) == [["cat"]]


def test_a_kept_synonym_is_not_looked_for():
    figures = {"synonyms": {"kitten": 0.95, "tabby": 0.91}}
    settings = {"preserve_prompts": ["Kitten"]}
    assert phrases_of(patch_of("cat", figures=figures, settings=settings)) == [["cat", "tabby"]]


def test_a_patch_without_metadata_is_refused():
    with pytest.raises(ForgetError, match="without"):
        gated_concepts(patch_of())

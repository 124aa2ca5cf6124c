"""What a patch written by this tool may hold is what it reads; strangers' concepts are measured before they cost anything."""

from dataclasses import replace

import pytest
import torch
from toy_model import ToyModel

from fmn_core.compose.gate import ConceptGate
from fmn_core.compose.merge import MergeSettings, sum_patches
from fmn_core.compose.preserve_cost import preserve_cost
from fmn_core.compose.side_by_side import side_by_side
from fmn_core.concepts.concept import Concept, packed_vectors
from fmn_core.concepts.limits import MOST_LINES, MOST_NAMES, MOST_PHRASES
from fmn_core.errors import ForgetError
from fmn_core.patch import schema as patch_schema
from fmn_core.patch.file import load_patch, patch_bytes, save_patch
from tools.hostile_files import good_patch


def named(count):
    return replace(good_patch(), concepts=[{"phrases": [str(n)], "kind": "object"} for n in range(count)])


@pytest.mark.parametrize("merge", [sum_patches, side_by_side])
def test_a_merged_patch_holds_no_more_concepts_than_a_file_may(tmp_path, merge):
    save_patch(merge([named(MOST_NAMES - 1), named(1)], MergeSettings()), tmp_path / "a.safetensors")
    assert len(load_patch(tmp_path / "a.safetensors").concepts) == MOST_NAMES
    with pytest.raises(ForgetError, match=f"at most {MOST_NAMES:,} phrases together, got {MOST_NAMES + 1:,}"):
        merge([named(MOST_NAMES), named(1)], MergeSettings())


def test_vectors_beyond_what_a_file_may_say_are_refused_before_it_is_written():
    vectors = packed_vectors(torch.ones(75, 4096))
    concepts = [{"phrases": [], "kind": "object", "vectors": 75, "embedding": {"l": vectors}}] * 8
    with pytest.raises(ForgetError, match=f"at most {patch_schema.LONGEST_CONCEPTS:,} characters of metadata"):
        patch_bytes(replace(good_patch(), concepts=concepts))


def test_a_gate_wants_phrases_that_a_prompt_can_hold():
    with pytest.raises(ForgetError, match="at most 75 tokens, got 90"):
        ConceptGate(ToyModel(), [Concept(["word " * 90], "object", ["{}"])])


def test_preserve_prompts_of_many_patches_are_compared_in_part():
    lines = [f"word {n}" for n in range(MOST_LINES)]
    patches = [replace(good_patch(), settings={"preserve_prompts": [f"{k} {line}" for line in lines]}) for k in "ab"]
    asked = []

    class Text(ToyModel):
        def phrase_tokens(self, phrase):
            asked.append(phrase)
            if len(asked) > MOST_LINES + 1000:
                raise AssertionError("too many prompts")
            return super().phrase_tokens(phrase)

        def encode(self, prompts, words=None, padding=None):
            raise InterruptedError  # what costs comes after this

    with pytest.raises(InterruptedError):
        preserve_cost(Text(), patches, patches)
    assert len(asked) > MOST_LINES and MOST_PHRASES == 100

import dataclasses

import pytest
import torch
from toy_model import ToyModel

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.compose.fusion import fuse_patches
from fmn_core.compose.merge import MergeSettings
from fmn_core.compose.recorded import recorded_concepts
from fmn_core.compose.side_by_side import side_by_side, sum_of_parts
from fmn_core.concepts.concept import Concept
from fmn_core.errors import ForgetError
from fmn_core.patch.file import load_patch, save_patch
from fmn_core.patch.parts import parts_of
from fmn_core.patch.patch import Factors, ForgetPatch
from fmn_core.patch.shrink import shrink_patch

pytestmark = pytest.mark.usefixtures("whole_prompts")

TEMPLATES = ["a photo of a {} in the park", "a {} on a table", "a drawing of a {} , detailed", "{}"]


@pytest.fixture(scope="module")
def model():
    return ToyModel()


@pytest.fixture(scope="module")
def alone(model):
    """Patches as their files hold them; the second forgets two concepts, the third changes keys too."""
    made = (["zebra"], "values"), (["teapot", "red apple"], "values"), (["wizard"], "keys and values")
    return [
        forget_closed_form(
            model,
            [Concept([n], "object", TEMPLATES) for n in names],
            ClosedFormSettings(train=train, preserve_prompts=["a red barn"], imagined_words=20, rank=6),
        ).as_stored()
        for names, train in made
    ]


def assert_same_change(found, wanted):
    assert found.factors.keys() == wanted.factors.keys()
    for name, f in wanted.factors.items():
        torch.testing.assert_close(found.factors[name].delta(), f.delta(), atol=0, rtol=0)


def test_every_part_comes_back_from_the_file_as_it_was(model, alone, tmp_path):
    save_patch(side_by_side(alone), tmp_path / "many.safetensors")
    parts = parts_of(load_patch(tmp_path / "many.safetensors"))
    for found, wanted in zip(parts, alone, strict=True):
        assert_same_change(found, wanted)
        assert found.concepts == wanted.concepts and found.settings == wanted.settings and found.base == wanted.base
        assert found.figures["ridge"] == wanted.figures["ridge"]


def test_as_a_whole_it_is_the_weighted_sum(alone):
    made = side_by_side(alone, MergeSettings([1.0, 0.5, -2.0]))
    for name, f in made.factors.items():
        wanted = sum(s * p.factors[name].delta() for s, p in zip((1.0, 0.5, -2.0), alone) if name in p.factors)
        torch.testing.assert_close(f.delta(), wanted, atol=1e-6, rtol=1e-5)
    for part, wanted, s in zip(parts_of(made), alone, (1.0, 0.5, -2.0), strict=True):
        for name, f in part.factors.items():
            torch.testing.assert_close(f.delta(), s * wanted.factors[name].delta(), atol=1e-6, rtol=1e-5)


def test_side_by_side_again_counts_the_parts(alone):
    nested = side_by_side([side_by_side(alone[:2]), alone[2]])
    assert len(nested.parts) == 3
    assert_same_change(nested, side_by_side(alone))


def test_fusion_of_side_by_side_is_fusion_of_the_parts(model, alone):
    direct, apart = fuse_patches(model, alone), fuse_patches(model, [side_by_side(alone[:2]), alone[2]])
    for name, f in direct.factors.items():
        torch.testing.assert_close(apart.factors[name].delta(), f.delta(), atol=1e-4, rtol=1e-3)


def test_only_the_acting_parts_add_up(alone):
    parts = parts_of(side_by_side(alone))
    found = sum_of_parts(parts, (0.0, 1.0, 0.5))
    for name, f in found.factors.items():
        wanted = sum(s * p.factors[name].delta() for s, p in zip((1.0, 0.5), parts[1:]) if name in p.factors)
        torch.testing.assert_close(f.delta(), wanted, atol=1e-6, rtol=1e-5)
    assert [p for c in found.concepts for p in c["phrases"]] == ["teapot", "red apple", "wizard"]
    with pytest.raises(ForgetError, match="Expected a part with a strength other than 0"):
        sum_of_parts(parts, (0.0, 0.0, 0.0))


def test_a_single_patch_is_its_only_part(alone):
    assert parts_of(alone[0]) == [alone[0]]


def changed(made, **changes):
    first = {**made.parts[0], **changes}
    return dataclasses.replace(made, parts=[first, *made.parts[1:]])


@pytest.mark.parametrize(
    "changes",
    [
        {"ranks": None},
        {"ranks": {}},
        {"ranks": {"lora_unet_nowhere": 2}},
        {"ranks": 3},
        {"concepts": 0},
        {"concepts": "1"},
        {"concepts": 7},
    ],
)
def test_a_description_that_does_not_fit_makes_it_one_patch(alone, changes):
    broken = changed(side_by_side(alone), **changes)
    assert parts_of(broken) == [broken]


@pytest.mark.parametrize("rank", [-1, 0, 1.5, True, 10**9])
def test_ranks_that_cannot_be_make_it_one_patch(alone, rank):
    made = side_by_side(alone)
    broken = changed(made, ranks=dict.fromkeys(made.parts[0]["ranks"], rank))
    assert parts_of(broken) == [broken]


def test_a_smaller_one_is_one_patch(alone):
    smaller = shrink_patch(side_by_side(alone), 4).patch
    assert smaller.parts == [] and len(recorded_concepts(smaller)) == 4


def test_what_does_not_say_what_it_forgets_is_refused(alone):
    name = next(iter(alone[0].factors))
    f = alone[0].factors[name]
    foreign = ForgetPatch({name: Factors(f.up, f.down, f.alpha)}, [], {}, {})
    with pytest.raises(ForgetError, match="what it forgets is unknown"):
        side_by_side([alone[0], foreign])


def test_more_than_a_hundred_parts_are_refused(alone):
    with pytest.raises(ForgetError, match="Expected at most 100 patches, those side by side counted apart, got 120"):
        side_by_side([side_by_side([alone[0]] * 60), side_by_side([alone[0]] * 60)])


@pytest.mark.parametrize(
    "parts", ["nonsense", "{}", '[1, null, "x", {}]', "[" * 9999, '[{"ranks": {"x": [1]}, "concepts": {}}]']
)
def test_parts_of_a_strangers_file_are_not_believed(alone, tmp_path, monkeypatch, parts):
    path = tmp_path / "odd.safetensors"
    metadata = side_by_side(alone).metadata() | {"fmn.parts": parts}
    monkeypatch.setattr(ForgetPatch, "metadata", lambda self: metadata)
    save_patch(side_by_side(alone), path)
    loaded = load_patch(path)
    assert parts_of(loaded) == [loaded] and len(loaded.concepts) == 4

import pytest
import torch
from toy_model import ToyModel

from fmn_core.closed_form.collect import collect_moments
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.closed_form.targets import TARGETS, steered_pair, template_pairs
from fmn_core.compose.recorded import recorded_pairs
from fmn_core.concepts.concept import Concept
from fmn_core.errors import ForgetError

pytestmark = pytest.mark.usefixtures("whole_prompts")

TEMPLATES = ["a photo of a {} in the park", "a {} on a table"]
EXACT = {
    "ridge": 1e-9,
    "preserve_weight": 1e-9,
    "rank": 24,
    "tolerance": 0.0,
    "overshoot": 0.0,
    "imagined_words": 0,
    "vocabulary_words": 0,
}


@pytest.fixture
def model():
    return ToyModel()


@pytest.fixture
def zebra():
    return Concept(["zebra"], "object", TEMPLATES)


def test_zero_takes_the_columns_alone(model, zebra):
    zebra.end_token = "first"
    pair = template_pairs([zebra], "zero")[0]
    full, aim = model.encode([pair.full, pair.target])
    end = full.tokens["l"][0].index(2)
    source, target = steered_pair(full, aim, [5, end], [], "zero")
    assert torch.equal(source, full.context[[5, end]]) and not target.any()
    first, second = collect_moments(model, [zebra], [[""]], pairs=template_pairs([zebra], "zero"))
    assert first.sources + second.sources == 2 * len(TEMPLATES) and not (first + second).tc.any()


def test_the_empty_prompt_stands_place_by_place(model, zebra):
    pair = template_pairs([zebra], "empty prompt")[0]
    assert pair.target == ""
    full, empty = model.encode([pair.full, ""])
    source, target = steered_pair(full, empty, [5], [], "empty prompt")
    assert torch.equal(source, full.context[5:]) and torch.equal(target, empty.context[5:])


def test_a_substitute_stands_in_the_phrases_place(model, zebra):
    pair = template_pairs([zebra], "substitute", "striped horse")[0]
    full, aim = model.encode([pair.full, pair.target])
    assert pair.target == "a photo of a striped horse in the park" and pair.target_name.text == "striped horse"
    _, target = steered_pair(full, aim, [5], [5, 6], "substitute")
    assert torch.equal(target[0], aim.context[6])  # the name's last token
    assert all(torch.equal(target[j - 5], aim.context[j + 1]) for j in range(6, 76))


def test_a_style_goes_further_than_its_target_and_other_kinds_do_not(zebra):
    style = Concept(["noto"], "style", TEMPLATES)
    pairs = template_pairs([zebra, style])
    assert [p.overshoot for p in pairs] == [0.0, 0.0, 0.5, 0.5]
    assert {p.overshoot for p in template_pairs([zebra, style], overshoot=0.25)} == {0.25}
    assert {p.overshoot for p in template_pairs([style], "substitute", "horse")} == {0.0}


def test_an_overshoot_scales_the_whole_change(model, zebra):
    """The system is linear in where the concept goes, and what is preserved stays in place."""
    exact = {"ridge": 0.1, "preserve_weight": 1.0, "rank": 24, "tolerance": 0.0, "imagined_words": 8}
    once, further = (forget_closed_form(model, [zebra], ClosedFormSettings(overshoot=o, **exact)) for o in (0.0, 0.5))
    for name, factors in once.factors.items():
        torch.testing.assert_close(further.factors[name].delta(), 1.5 * factors.delta(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_solved_for_is_what_the_target_says(model, zebra, target):
    """With next to no ridge and more dimensions than rows, the edited layer does exactly what the target asks."""
    model, one = ToyModel(dim=96), Concept(["zebra"], "object", TEMPLATES[:1])
    settings = ClosedFormSettings(target=target, substitute="horse", **{**EXACT, "rank": 96})
    patch = forget_closed_form(model, [one], settings)
    pair = template_pairs([one], target, "horse")[0]
    full, aim = model.encode([pair.full, pair.target])
    at = full.tokens["l"][0].index(model.ids("zebra")[0])
    wanted = {
        "ablated prompt": aim.context[-1],
        "zero": None,
        "empty prompt": aim.context[at],
        "substitute": aim.context[at],
    }[target]
    layer = model.cross_attention()[0]
    w = model.weights([(layer.name, "to_v")])[0]
    new = w + patch.factors[f"lora_unet_{layer.name}_to_v".replace(".", "_")].delta()
    expected = torch.zeros(len(w)) if wanted is None else w @ wanted
    assert (new @ full.context[at] - expected).norm() < 0.02 * (w @ full.context[at]).norm()


def test_a_target_travels_in_the_metadata(model, zebra):
    zebra.end_token = "all"
    for target in TARGETS:
        settings = ClosedFormSettings(target=target, substitute="horse", imagined_words=4)
        patch = forget_closed_form(model, [zebra], settings)
        assert recorded_pairs(patch) == template_pairs([zebra], target, "horse")
    patch.settings["target"] = "../../etc"
    assert recorded_pairs(patch) == template_pairs([zebra])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "elsewhere"}, "target to be one of ablated prompt"),
        ({"target": "substitute"}, "Type one, such as"),
        ({"precision": "float16"}, "precision to be one of"),
        ({"train": "everything"}, "train to be one of"),
    ],
)
def test_bad_settings_say_what_was_expected(model, zebra, changes, said):
    with pytest.raises(ForgetError, match=said):
        forget_closed_form(model, [zebra], ClosedFormSettings(imagined_words=0, **changes))

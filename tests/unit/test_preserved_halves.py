"""What is preserved, its halves, and the ridge and weight that the half left out chooses."""

import pytest
import torch

from fmn_core.closed_form.collect import collect_moments
from fmn_core.closed_form.weight_choice import DRIFT_PRICE, PRESERVE_WEIGHTS, RIDGES, choose_weights
from fmn_core.concepts.concept import make_concept
from fmn_core.concepts.preserve import TEMPLATES_PER_NAME, longer_names, preserve_groups, without_concepts

pytestmark = pytest.mark.usefixtures("whole_prompts")


@pytest.mark.parametrize("preservation", [0.3, 1.0, 3.0])
def test_choice_is_the_best_of_the_grid_on_what_was_left_out(model, zebra, preservation):
    fitted, left_out = collect_moments(
        model, [zebra], ["a horse in the park", "a dog", "a chair and a table", "the sea"]
    )
    root = torch.randn(30, model.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    metric = root.T @ root
    ridge, weight, figures = choose_weights(fitted, left_out, metric, preservation=preservation)

    def score(r, w):
        edit = fitted.solve(r, w)
        return left_out.missed(edit, metric) ** 2 + (preservation * DRIFT_PRICE * left_out.drift(edit, metric)) ** 2

    scores = {(r, w): score(r, w) for r in RIDGES for w in PRESERVE_WEIGHTS}
    assert (ridge, weight) == min(scores, key=scores.get)
    assert figures["held_out_drift"] == left_out.drift(fitted.solve(ridge, weight), metric)


def test_preserve_prompts_that_name_the_concept_are_dropped(model, zebra):
    assert without_concepts(model, [zebra], ["a zebra in the park", "a horse", "a horse"]) == ["a horse"]


def test_names_go_through_templates_and_prompts_do_not(model):
    concept = make_concept(model, "zebra")
    lines = ["horse", "zebra", "a horse in the park at night"]
    groups = preserve_groups(model, [concept], lines, use_everyday_captions=False)
    assert groups[0] == [""] and groups[2] == ["a horse in the park at night"] and len(groups) == 3
    assert groups[1][0] == "horse" and len(groups[1]) >= TEMPLATES_PER_NAME
    assert all("horse" in text for text in groups[1])


def test_a_name_is_held_out_with_all_its_prompts(model, zebra):
    """Both prompts of a name land in one half: the other half says what happens to names that nobody listed."""
    first, second = collect_moments(model, [zebra], [["one horse", "two horse"], []])
    alone, _ = collect_moments(model, [zebra], [[], []])
    assert first.preserved == alone.preserved + 2 * 77
    assert second.preserved == collect_moments(model, [zebra], [[], []])[1].preserved


def test_the_two_halves_share_no_template_and_no_preserve_prompt(model, zebra):
    first, second = collect_moments(model, [zebra], [[""], ["a horse"], ["a dog"]])
    assert first.sources + second.sources == sum(m.sources for m in collect_moments(model, [zebra], []))
    assert first.preserved + second.preserved == 77 * (2 + 1 + 3)  # "{}" without the phrase is the empty prompt
    assert first.sources > 0 and second.sources > 0


def test_weights_that_are_given_are_kept(model, zebra):
    halves = collect_moments(model, [zebra], [["a horse in the park"], ["a dog"]])
    metric = torch.eye(model.dim, dtype=torch.float64)
    assert choose_weights(*halves, metric, 2e-4, 7.0)[:2] == (2e-4, 7.0)
    ridge, weight, _ = choose_weights(*halves, metric, preserve_weight=7.0)
    assert ridge in RIDGES and weight == 7.0


def test_a_longer_name_that_holds_the_phrase_is_kept(model, zebra):
    lines = [
        "zebra crossing",
        "the zebra",
        "a zebra",
        "zebra",
        "a photo of a zebra",
        "a photo of a zebra in the park",
        "red zebra crossing",
    ]
    assert longer_names(model, [zebra], lines) == ["zebra crossing", "red zebra crossing"]
    texts = [text for group in preserve_groups(model, [zebra], lines, use_everyday_captions=False) for text in group]
    assert "zebra crossing" in texts and not any(text.endswith("zebra") for text in texts)


def test_what_a_longer_name_shares_with_the_phrase_is_forgotten_all_the_same(model, zebra):
    """The encoder is causal: the row of "zebra" does not know that "crossing" follows. The rows after it are preserved."""
    groups = [["a zebra crossing"], []]
    zebra.templates = ["a {}"]
    with_name, without = (sum_of(collect_moments(model, [zebra], g)) for g in (groups, [[], []]))
    rows = model.encode(["a zebra crossing"])[0].context.double()
    rows = torch.cat([rows[:2], rows[3:]])
    torch.testing.assert_close(with_name.pp - without.pp, rows.T @ rows, atol=1e-6, rtol=1e-6)


def sum_of(halves):
    return halves[0] + halves[1]

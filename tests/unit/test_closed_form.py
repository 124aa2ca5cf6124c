"""Forgetting in closed form on the toy: what is solved, what the patch does and says, and what is refused."""

import pytest
import torch
from toy_concepts import TEMPLATES

from fmn_core.closed_form.collect import collect_moments
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.moments import Moments
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.closed_form.shortfall import LARGEST, overshoot_for
from fmn_core.closed_form.targets import steered_pair
from fmn_core.concepts.concept import Concept, make_concept
from fmn_core.concepts.preserve import IMAGINED_WORDS, preserve_groups
from fmn_core.errors import ForgetError

pytestmark = pytest.mark.usefixtures("whole_prompts")


def rows_of(model, concept, preserve):
    """Sources, targets and preserved rows, row by row, without moments."""
    source, target, ablated_texts = [], [], []
    for template in concept.templates:
        ablated_texts.append(" ".join(template.format(" ").split()))
        full, ablated = model.encode([template.format(concept.phrases[0]), ablated_texts[-1]])
        at = full.tokens["l"][0].index(model.ids(concept.phrases[0])[0])
        source.append(full.context[at:])
        target.append(torch.cat([ablated.context[-1:], ablated.context[at : 77 - 1]]))
    kept = model.encode(list(dict.fromkeys([*preserve, "", *ablated_texts])))
    return torch.cat(source).double(), torch.cat(target).double(), torch.cat([p.context for p in kept]).double()


def test_solution_zeroes_the_gradient_of_the_ridge_objective():
    """Autograd, not algebra, says that W' = W + W E is the minimum of the objective the system stands for."""
    g = torch.Generator().manual_seed(0)
    source, target, preserve = (torch.randn(n, 9, generator=g, dtype=torch.float64) for n in (14, 14, 20))
    w = torch.randn(5, 9, generator=g, dtype=torch.float64)
    ridge, weight = 1e-2, 3.0
    moments = Moments.empty(9)
    moments.add_pair(source, target)
    moments.add_preserved(preserve)
    absolute = ridge * (source.T @ source / 14 + weight * preserve.T @ preserve / 20).trace() / 9
    new = (w + w @ moments.solve(ridge, weight)).requires_grad_()
    objective = ((source @ new.T - target @ w.T) ** 2).sum() / len(source)
    objective = (
        objective + weight * ((preserve @ (new - w).T) ** 2).sum() / len(preserve) + absolute * ((new - w) ** 2).sum()
    )
    objective.backward()
    assert new.grad.abs().max() < 1e-10


def test_pairs_align_with_the_prompt_without_the_phrase(model):
    full, ablated = model.encode(["a photo of a zebra in the park", "a photo of a in the park"])
    columns = [5]
    source, target = steered_pair(full, ablated, columns, [])
    assert len(source) == 77 - 5
    assert torch.equal(source, full.context[5:])
    # The phrase itself goes to padding.
    assert torch.equal(target[0], ablated.context[-1])
    for j in range(6, 77):
        assert torch.equal(target[j - 5], ablated.context[j - 1])
    # the word after the phrase has the same token in both prompts, one place earlier
    assert full.tokens["l"][0][6] == ablated.tokens["l"][0][5]
    assert torch.equal(full.context[:5], ablated.context[:5])


def test_factors_equal_the_dense_edit_at_full_rank(model, zebra):
    settings = ClosedFormSettings(
        train="keys and values",
        ridge=1e-3,
        preserve_weight=1.0,
        rank=24,
        tolerance=0.0,
        vocabulary_words=0,
        overshoot=0.0,
    )
    patch = forget_closed_form(model, [zebra], settings)

    first, second = collect_moments(model, [zebra], preserve_groups(model, [zebra], [], True), IMAGINED_WORDS)
    edit = (first + second).solve(1e-3, 1.0)
    for layer in model.cross_attention():
        for projection in ("to_k", "to_v"):
            name = f"lora_unet_{layer.name}_{projection}".replace(".", "_")
            dense = (model.weights([(layer.name, projection)])[0].double() @ edit).float()
            torch.testing.assert_close(patch.factors[name].delta(), dense, atol=2e-5, rtol=2e-4)
    assert patch.figures["rank_residual"] < 1e-12


def test_reported_figures_equal_what_the_patched_weights_do(model, zebra):
    exact = {"ridge": 1e-4, "preserve_weight": 1.0, "overshoot": 0.0, "imagined_words": 0, "vocabulary_words": 0}
    patch = forget_closed_form(model, [zebra], ClosedFormSettings(**exact))
    from fmn_core.concepts.templates import everyday_captions

    source, target, preserve = rows_of(model, zebra, list(everyday_captions()))
    layer = model.cross_attention()[1]
    w = model.weights([(layer.name, "to_v")])[0].double()
    new = w + patch.factors[f"lora_unet_{layer.name}_to_v".replace(".", "_")].delta().double()
    wanted, before = target @ w.T, source @ w.T
    missed = (source @ new.T - wanted).norm() / (before - wanted).norm()
    drift = (preserve @ (new - w).T).norm() / (preserve @ w.T).norm()
    figures = patch.figures["layers"][f"{layer.name}.to_v"]
    assert figures["missed"] == pytest.approx(float(missed), rel=1e-4)
    assert figures["drift"] == pytest.approx(float(drift), rel=1e-4)


def test_values_only_leaves_keys_alone(model, zebra):
    patch = forget_closed_form(model, [zebra])
    assert all(name.endswith("to_v") for name in patch.factors)


def test_more_preservation_moves_preserve_prompts_less(model, zebra):
    drifts = []
    for preservation in (0.1, 1.0, 10.0):
        patch = forget_closed_form(
            model, [zebra], ClosedFormSettings(preservation=preservation, rank=24, tolerance=0.0)
        )
        drifts.append(patch.figures["held_out_drift"])
    assert drifts[0] >= drifts[1] >= drifts[2]
    assert drifts[2] < drifts[0]


def test_two_runs_are_identical(model, zebra):
    a, b = (forget_closed_form(model, [zebra]).state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_progress_may_interrupt(model, zebra):
    def stop(done, total, figures):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forget_closed_form(model, [zebra], progress=stop)


def test_template_that_changes_the_phrase_is_refused(model):
    concept = Concept(["zebra"], "object", ["a photo of {}s"])
    with pytest.raises(ForgetError, match="'zebra' was not found in the prompt 'a photo of zebras'"):
        forget_closed_form(model, [concept])


@pytest.mark.parametrize(
    ("phrases", "kind", "templates", "message"),
    [
        ("", "object", "", "empty text"),
        ("  \n ", "object", "", "empty text"),
        ("zebra", "thing", "", "object, identity, style"),
        ("zebra", "object", "a photo", "one {}"),
        (" ".join(["word"] * 80), "object", "", "at most 75 tokens, got 80"),
    ],
)
def test_bad_concepts_are_refused(model, phrases, kind, templates, message):
    with pytest.raises(ForgetError, match=message):
        make_concept(model, phrases, kind, templates)


def test_figures_from_moments_equal_figures_from_rows():
    g = torch.Generator().manual_seed(1)
    source, target, preserve = (torch.randn(n, 6, generator=g, dtype=torch.float64) for n in (9, 9, 7))
    edit, w = (torch.randn(n, 6, generator=g, dtype=torch.float64) for n in (6, 3))
    moments = Moments.empty(6)
    moments.add_pair(source, target)
    moments.add_preserved(preserve)
    missed = ((source + source @ edit.T - target) @ w.T).norm() / ((source - target) @ w.T).norm()
    assert moments.missed(edit, w.T @ w) == pytest.approx(float(missed), rel=1e-10)
    drift = (preserve @ edit.T @ w.T).norm() / (preserve @ w.T).norm()
    assert moments.drift(edit, w.T @ w) == pytest.approx(float(drift), rel=1e-10)


def test_rows_of_several_phrases_are_all_solved(model):
    concept = Concept(["zebra", "striped horse"], "object", TEMPLATES)
    both = sum(m.sources for m in collect_moments(model, [concept], []))
    single = sum(m.sources for m in collect_moments(model, [Concept(["zebra"], "object", TEMPLATES)], []))
    assert both > single


def test_several_concepts_share_the_largest_overshoot():
    g = torch.Generator().manual_seed(0)
    unseen = Moments.empty(6)
    unseen.add_pair(torch.randn(8, 6, generator=g), torch.randn(8, 6, generator=g))
    weak, metric = -0.01 * torch.eye(6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    assert overshoot_for(unseen, weak, metric) == LARGEST
    assert overshoot_for(unseen, weak, metric, 10) == pytest.approx(LARGEST / 10)

import dataclasses

import pytest
import torch
from toy_model import ToyModel

from fmn_core.closed_form import collect
from fmn_core.closed_form.collect import collect_moments
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.moments import Moments
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.closed_form.targets import steered_pair
from fmn_core.closed_form.weight_choice import DRIFT_PRICE, PRESERVE_WEIGHTS, RIDGES, choose_weights
from fmn_core.concepts.concept import Concept, make_concept
from fmn_core.concepts.preserve import (
    IMAGINED_WORDS,
    TEMPLATES_PER_NAME,
    encode_imagined,
    imagined_word_count,
    imagined_words,
    preserve_groups,
    without_concepts,
)
from fmn_core.errors import ForgetError
from fmn_core.model.tokens import row_weights
from fmn_core.patch.factors import mean_square_change, smallest_rank, weighted_range

pytestmark = pytest.mark.usefixtures("whole_prompts")

TEMPLATES = ["a photo of a {} in the park", "a {} on a table", "a drawing of a {} , detailed", "{}"]


def rows_of(model, concept, preserve):
    """Sources, targets and preserved rows, row by row, without moments."""
    source, target, ablated_texts = [], [], []
    for template in concept.templates:
        ablated_texts.append(" ".join(template.format(" ").split()))
        full, ablated = model.encode([template.format(concept.phrases[0]), ablated_texts[-1]])
        at = full.tokens["l"][0].index(model.ids(concept.phrases[0])[0])
        source.append(full.context[at:])
        target.append(torch.cat([torch.zeros(1, model.dim), ablated.context[at : 77 - 1]]))
    kept = model.encode(list(dict.fromkeys([*preserve, "", *ablated_texts])))
    return torch.cat(source).double(), torch.cat(target).double(), torch.cat([p.context for p in kept]).double()


@pytest.fixture
def model():
    return ToyModel()


@pytest.fixture
def zebra():
    return Concept(["zebra"], "object", TEMPLATES)


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
    assert target[0].abs().max() == 0
    for j in range(6, 77):
        assert torch.equal(target[j - 5], ablated.context[j - 1])
    # the word after the phrase has the same token in both prompts, one place earlier
    assert full.tokens["l"][0][6] == ablated.tokens["l"][0][5]
    assert torch.equal(full.context[:5], ablated.context[:5])


def test_factors_equal_the_dense_edit_at_full_rank(model, zebra):
    settings = ClosedFormSettings(train="keys and values", ridge=1e-3, preserve_weight=1.0, rank=24, tolerance=0.0)
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
    patch = forget_closed_form(model, [zebra], ClosedFormSettings(ridge=1e-4, preserve_weight=1.0, imagined_words=0))
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


def test_two_runs_are_identical(model, zebra):
    a, b = (forget_closed_form(model, [zebra]).state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)


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


def test_the_two_halves_share_no_template_and_no_preserve_prompt(model, zebra):
    first, second = collect_moments(model, [zebra], [[""], ["a horse"], ["a dog"]])
    assert first.sources + second.sources == sum(m.sources for m in collect_moments(model, [zebra], []))
    assert first.preserved + second.preserved == 77 * (2 + 1 + 3)  # "{}" without the phrase is the empty prompt
    assert first.sources > 0 and second.sources > 0


def test_weighted_range_beats_other_subspaces_of_its_rank():
    g = torch.Generator().manual_seed(2)
    edit, root = torch.randn(8, 8, generator=g).double(), torch.randn(8, 8, generator=g).double()
    moment = root @ root.T
    basis, residual = weighted_range(edit, moment, 0.0, 3)

    def left(u):
        e = edit - u @ (u.T @ edit)
        return float((e @ moment @ e.T).trace())

    total = float((edit @ moment @ edit.T).trace())
    assert residual == pytest.approx(left(basis) / total, rel=1e-9)
    for seed in range(20):
        other, _ = torch.linalg.qr(torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)).double())
        assert left(other) >= left(basis)


def test_movement_from_factors_equals_that_of_the_dense_change():
    g = torch.Generator().manual_seed(5)
    parts = [(torch.randn(5, r, generator=g).double(), torch.randn(r, 7, generator=g).double()) for r in (2, 3)]
    rows = torch.randn(11, 7, generator=g).double()
    dense = sum(up @ down for up, down in parts)
    assert mean_square_change(parts, rows.T @ rows) == pytest.approx(float(((rows @ dense.T) ** 2).sum()), rel=1e-12)


def test_weights_that_are_given_are_kept(model, zebra):
    halves = collect_moments(model, [zebra], [["a horse in the park"], ["a dog"]])
    metric = torch.eye(model.dim, dtype=torch.float64)
    assert choose_weights(*halves, metric, 2e-4, 7.0)[:2] == (2e-4, 7.0)
    ridge, weight, _ = choose_weights(*halves, metric, preserve_weight=7.0)
    assert ridge in RIDGES and weight == 7.0


def test_smallest_rank():
    s = torch.tensor([3.0, 1.0, 0.1])
    assert smallest_rank(s, 0.5, 3) == 1
    assert smallest_rank(s, 0.01, 3) == 2
    assert smallest_rank(s, 0.0, 2) == 2
    assert smallest_rank(torch.zeros(3), 0.1, 3) == 1


def test_rows_of_several_phrases_are_all_solved(model):
    concept = Concept(["zebra", "striped horse"], "object", TEMPLATES)
    both = sum(m.sources for m in collect_moments(model, [concept], []))
    single = sum(m.sources for m in collect_moments(model, [Concept(["zebra"], "object", TEMPLATES)], []))
    assert both > single


def test_imagined_words_have_the_distribution_of_the_vocabulary(model):
    model.table[100:] = 0  # never trained
    trained = model.table[:100]
    words = torch.cat([name.embedding["l"] for name in imagined_words(model, 20000)])

    torch.testing.assert_close(words.mean(0), trained.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(words.T.cov(), trained.T.cov(correction=0), atol=0.08, rtol=0)
    nearest = torch.cdist(words[:200], trained).min(1).values
    assert nearest.min() > 0.5 * torch.cdist(trained, trained).topk(2, largest=False).values[:, 1].median()


def test_imagined_words_narrow_what_an_edit_does_to_words_in_no_list(model, zebra):
    groups, moved = [[""]], {}
    unlisted = Moments.empty(model.dim)
    for prompt in model.encode(["a photo of a lighthouse in the park", "a violin on a table"]):
        unlisted.add_preserved(prompt.context)
    metric = torch.eye(model.dim, dtype=torch.float64)
    for imagined in (0, IMAGINED_WORDS):
        first, second = collect_moments(model, [zebra], groups, imagined)
        moved[imagined] = unlisted.drift((first + second).solve(1e-6, 10.0), metric)
    assert moved[IMAGINED_WORDS] < moved[0]


def test_imagined_words_stand_where_the_phrase_would(model, zebra):
    prompts = encode_imagined(model, [zebra], 8)
    assert all(sum(i < 0 for i in prompt.tokens["l"][0]) == 1 for prompt in prompts)
    assert len({prompt.text for prompt in prompts}) == len(TEMPLATES)


def test_more_concepts_draw_more_words_that_weigh_no_more(model, zebra):
    concepts = [zebra, *(dataclasses.replace(zebra, phrases=[name]) for name in ("teapot", "wizard"))]
    assert [imagined_word_count(200, n) for n in (1, 3, 5, 9)] == [200, 600, 1000, 1000]
    assert imagined_word_count(0, 4) == 0 and imagined_word_count(1500, 3) == 1500
    none, some = (sum_of(collect_moments(model, concepts, [[""]], n)) for n in (0, 20))
    pp, rows = torch.zeros_like(none.pp), 0.0
    for prompt in encode_imagined(model, concepts, 60, collect.PADDING):
        weight = row_weights(prompt, model.vocabulary) / 3
        context = prompt.context.double()
        pp += (context * weight[:, None]).T @ context
        rows += float(weight.sum())
    torch.testing.assert_close(some.pp - none.pp, pp, atol=1e-6, rtol=1e-6)
    assert some.preserved - none.preserved == pytest.approx(rows)


def sum_of(halves):
    return halves[0] + halves[1]

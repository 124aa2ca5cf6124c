"""Attacked closed forms: against the same steps done by hand on changed weights."""

import pytest
import torch
from toy_model import ToyModel

from fmn_core.attacks.hardening import Hardening, forget_hardened
from fmn_core.attacks.search import Budget, search_embedding
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import Concept
from fmn_core.concepts.templates import default_templates
from fmn_core.errors import ForgetError
from fmn_core.patch.patch import kohya_name

TEMPLATES = ["a photo of a {}", "a {} in the park", "{} on a table"]
SETTINGS = ClosedFormSettings(overshoot=0.0, imagined_words=8, preserve_prompts=["teapot"], use_everyday_captions=False)
BUDGET = Budget(steps=3, batch=2, seed=5)


def concepts():
    return [Concept(["zebra", "striped horse"], "object", TEMPLATES), Concept(["clown"], "identity", TEMPLATES)]


def changed(patch):
    """A toy whose own weights carry the patch."""
    model = ToyModel()
    for layer in model.layers:
        for projection, module in layer.projections.items():
            if factors := patch.factors.get(kohya_name(layer.name, projection)):
                module.weight.data += factors.delta()
    return model


def deltas(patch):
    return {name: f.delta() for name, f in patch.factors.items()}


def test_every_round_forgets_what_searches_find_on_the_round_before(model, references):
    names, found = concepts(), []
    patch = forget_closed_form(model, names, SETTINGS)
    for number in range(2):
        attacked = changed(patch)
        for k in range(2):
            budget = Budget(steps=3, batch=2, seed=5 + 2 * number + k)
            for c in names:
                templates = list(default_templates(c.kind))
                word = search_embedding(attacked, references, templates, c.phrases[0], budget)
                found.append(Concept([], c.kind, TEMPLATES, embedding=word))
        patch = forget_closed_form(model, [*names, *found], SETTINGS)
    hardened = forget_hardened(model, names, [references] * 2, SETTINGS, Hardening(2, 2, BUDGET))
    plain = deltas(forget_closed_form(model, names, SETTINGS))
    for name, delta in deltas(patch).items():
        torch.testing.assert_close(hardened.factors[name].delta(), delta, rtol=1e-3, atol=1e-5)
        assert (delta - plain[name]).norm() > 0.05 * plain[name].norm()


def test_the_patch_names_the_concepts_and_the_attack_alone(model, references):
    steps = []
    hardening = Hardening(1, 2, BUDGET)
    made = forget_hardened(
        model, concepts(), [references] * 2, SETTINGS, hardening, lambda d, t, f: steps.append((d, t, "loss" in f))
    )
    assert made.concepts == [c.as_dict() for c in concepts()]
    assert made.settings["attack_rounds"] == 1 and made.settings["method"] == "closed form"
    assert made.settings["attack"]["budget"]["steps"] == 3
    assert steps == [(n, 12, True) for n in range(1, 13)]


def test_an_inverted_concept_is_attacked_from_its_own_vectors(model, references):
    vectors = {"l": torch.randn(3, 24, generator=torch.Generator().manual_seed(1))}
    concept = Concept([], "object", TEMPLATES, embedding=vectors)
    made = forget_hardened(model, [concept], [references], SETTINGS, Hardening(1, 1, BUDGET))
    assert made.concepts == [concept.as_dict()]


def test_one_seed_gives_one_patch_and_another_another(model, references):
    found = [
        deltas(forget_hardened(model, concepts()[:1], [references], SETTINGS, Hardening(1, 1, Budget(2, 2, seed=seed))))
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])
    assert any(not torch.equal(found[0][n], found[2][n]) for n in found[0])


def test_an_interrupted_search_leaves_the_model_as_it_was(model, references):
    before = {n: m.weight.clone() for n, m in model.linear_layers().items()}

    def interrupt(done, total, figures):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forget_hardened(model, concepts(), [references] * 2, SETTINGS, Hardening(1, 1, BUDGET), interrupt)
    for name, module in model.linear_layers().items():
        assert torch.equal(module.weight, before[name]) and not module._forward_hooks


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": 0}, "rounds from 1 to 10, got 0"),
        ({"rounds": 11}, "rounds from 1 to 10, got 11"),
        ({"searches": 0}, "searches from 1 to 16, got 0"),
        ({"budget": 3}, "budget as Budget, got 3"),
    ],
)
def test_settings_out_of_range_are_refused(changes, said):
    with pytest.raises(ForgetError, match=said):
        Hardening(**changes)

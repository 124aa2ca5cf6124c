import pytest
import torch
from toy_model import ToyModel

from fmn_core.compose.gate import CURVES, BackgroundPrompts, ConceptGate, GateSettings
from fmn_core.concepts.concept import Concept
from fmn_core.concepts.preserve import encode_imagined
from fmn_core.concepts.templates import everyday_captions
from fmn_core.errors import ForgetError

TEMPLATES = ["a photo of a {} in the park", "a {} on a table"]


@pytest.fixture(scope="module")
def model():
    return ToyModel()


@pytest.fixture(scope="module")
def gate(model):
    return ConceptGate(model, [Concept(["red apple"], "object", TEMPLATES), Concept(["zebra"], "object", TEMPLATES)])


def test_strength_is_exactly_zero_up_to_the_threshold_and_one_at_one():
    for curve in CURVES:
        settings = GateSettings(0.4, curve)
        found = [settings.strength(x) for x in (-1.0, 0.0, 0.4, 0.40001, 0.7, 1.0, 1.5)]
        assert found[:3] == [0.0, 0.0, 0.0] and found[-2:] == [1.0, 1.0]
        assert found == sorted(found) and found[3] > 0
    assert GateSettings(0.4, "linear").strength(0.7) == pytest.approx(0.5)
    assert GateSettings(0.4, "smooth").strength(0.55) == pytest.approx(0.25**2 * 2.5)
    assert GateSettings(0.4, "step").strength(0.41) == 1.0


@pytest.mark.parametrize("threshold", [1.0, -0.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ForgetError, match="threshold from 0 to 0.99"):
        GateSettings(threshold)


def test_an_unknown_curve_is_refused():
    with pytest.raises(ForgetError, match="curve to be one of step, linear, smooth"):
        GateSettings(curve="cubic")


def test_overlap_is_the_share_of_a_phrase_in_the_prompt(model, gate):
    def overlap(text):
        return gate.overlap(model.encode([text])[0].tokens)

    assert overlap("a green apple on a plate") == 0.5
    assert overlap("an apple that is red") == 1.0
    assert overlap("two zebra") == 1.0
    assert overlap("a teapot") == 0.0


def brute_force(model, phrases=("red apple", "zebra")):
    """unit(prompt) and directions, written out with an inverse square root in place of a Cholesky factor."""
    concepts = [Concept([p], "object", TEMPLATES) for p in phrases]
    captions = [p.context[-1].double() for p in model.encode(list(everyday_captions()))]
    imagined = [p.context[-1].double() for p in encode_imagined(model, concepts)]
    bare = [p.context[-1].double() for p in model.encode(["a photo of a in the park", "a on a table"])]
    centre = sum(captions) / len(captions)
    total, count = torch.zeros(model.dim, model.dim, dtype=torch.float64), 0
    for group in (captions, imagined, bare):
        mean = sum(group) / len(group)
        for row in group:
            total += torch.outer(row - mean, row - mean)
            count += 1
    total /= count
    total += 0.3 * torch.trace(total) / model.dim * torch.eye(model.dim, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(total)
    root = vectors @ torch.diag(values**-0.5) @ vectors.T

    def unit(context):
        x = root @ (context[-1].double() - centre)
        return x / x.norm()

    directions = []
    for phrase in phrases:
        mean = sum(unit(model.encode([t.format(phrase)])[0].context) for t in TEMPLATES) / len(TEMPLATES)
        directions.append(mean / mean.norm())
    return unit, directions


def test_cosine_against_a_brute_force_version(model, gate):
    unit, directions = brute_force(model)
    for text in ("a zebra under a tree", "a teapot", "red apple", "an apple and a zebra"):
        context = model.encode([text])[0].context
        assert gate.cosine(context) == pytest.approx(max(float(unit(context) @ d) for d in directions), abs=1e-5)


def test_automatic_threshold_lies_between_other_prompts_and_the_concepts_own(model, gate):
    own = [gate.cosine(model.encode([t.format(p)])[0].context) for t in TEMPLATES for p in ("red apple", "zebra")]
    others = [gate.cosine(p.context) for p in gate.background.prompts if gate.overlap(p.tokens) <= 0.5]
    assert len(others) > len(everyday_captions()) + 100
    highest = float(torch.tensor(others, dtype=torch.float64).quantile(0.99))
    expected = min(min(own), (min(own) + highest) / 2)
    assert gate.threshold == pytest.approx(min(0.95, max(0.05, expected)), abs=1e-5)
    assert GateSettings().resolved(gate).threshold == gate.threshold
    assert GateSettings(0.3).resolved(gate) == GateSettings(0.3)


def test_a_shared_background_gives_the_same_gate(model):
    apple, zebra = (Concept([p], "object", TEMPLATES) for p in ("red apple", "zebra"))
    shared = BackgroundPrompts(model, [apple, zebra])
    context = model.encode(["a zebra under a tree"])[0].context
    own = ConceptGate(model, [zebra], BackgroundPrompts(model, [zebra]))
    assert own.cosine(context) == ConceptGate(model, [zebra]).cosine(context)
    both = ConceptGate(model, [apple, zebra], shared).cosine(context)
    each = max(ConceptGate(model, [c], shared).cosine(context) for c in (apple, zebra))
    assert both == pytest.approx(each, abs=1e-9)


def test_the_chunk_that_names_the_concept_counts(model, gate):
    plain, named = model.encode(["a teapot", TEMPLATES[0].format("zebra")])
    both = torch.cat([plain.context, named.context])
    assert gate.cosine(both) == pytest.approx(max(gate.cosine(plain.context), gate.cosine(named.context)))


def test_unknown_tokens_leave_the_cosine(model, gate):
    prompt = model.encode(["a red apple"])[0]
    assert gate.similarity(prompt.context, None) == pytest.approx(gate.cosine(prompt.context))
    assert gate.similarity(prompt.context, prompt.tokens) == 1.0


def test_a_patch_without_concepts_is_refused(model):
    with pytest.raises(ForgetError, match="Expected a patch that says what it forgets"):
        ConceptGate(model, [])


def test_a_phrase_inside_of_a_kept_name_does_not_open_the_gate(model):
    zebra = Concept(["zebra"], "object", TEMPLATES)
    shut, opened = (ConceptGate(model, [zebra], kept_names=names) for names in (["zebra crossing"], []))
    for prompt, at_rest in (
        ("a zebra crossing in the park", True),
        ("a zebra on a zebra crossing", False),
        ("a zebra in the park", False),
        ("a horse in the park", False),
    ):
        encoded = model.encode([prompt])[0]
        similarity = shut.similarity(encoded.context, encoded.tokens)
        assert (similarity == 0.0) == at_rest
        assert at_rest or similarity == opened.similarity(encoded.context, encoded.tokens)

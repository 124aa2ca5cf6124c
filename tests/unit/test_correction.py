import pytest
import torch
from toy_model import ToyModel

from fmn_core.closed_form.correction import correct_concept, correction_pairs
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.closed_form.targets import steered_pair
from fmn_core.concepts.concept import Concept
from fmn_core.errors import ForgetError

pytestmark = pytest.mark.usefixtures("whole_prompts")

TEMPLATES = ["a photo of a {}", "a {} in the park", "a drawing of a {} on a table", "{}"]


@pytest.fixture
def model():
    return ToyModel(dim=160)


@pytest.fixture
def inverted(model):
    return Concept(
        [], "object", TEMPLATES, embedding={"l": torch.randn(2, model.dim, generator=torch.Generator().manual_seed(1))}
    )


def test_the_word_goes_to_its_context_token_by_token(model):
    word, context = model.encode(["a photo of a apple in the park", "a photo of a green apple in the park"])
    source, target = steered_pair(word, context, [5], [5, 6])
    assert torch.equal(source[0], word.context[5]) and torch.equal(target[0], context.context[6])
    # "in" stands one place later in the longer prompt; the last row has no later one and stays at the end
    assert torch.equal(source[1], word.context[6]) and torch.equal(target[1], context.context[7])
    assert torch.equal(target[-1], context.context[-1])


def test_a_longer_word_goes_to_a_shorter_context_last_to_last(model):
    word, context = model.encode(["a big red apple", "a pear"])
    source, target = steered_pair(word, context, [2, 3, 4], [2])
    assert all(torch.equal(target[k], context.context[2]) for k in range(3))
    assert torch.equal(target[3], context.context[3]) and torch.equal(source[3], word.context[5])


def test_pairs_hold_the_word_in_every_context_and_the_inverted_tokens(model, inverted):
    pairs = correction_pairs("apple", ["green apple", "apple tree"], inverted)
    for embedding in (None, inverted.embedding):
        steered = [p for p in pairs if p.name.embedding is embedding]
        assert len(steered) == 8 and {p.target for p in steered if p.template == 0} == {
            "a photo of a green apple",
            "a photo of a apple tree",
        }
    assert {p.target_name.text for p in pairs} == {"green apple", "apple tree"} and len(pairs) == 16


def test_the_corrected_word_acts_like_its_context_and_the_context_is_kept(model, inverted):
    settings = ClosedFormSettings(
        rank=160, tolerance=0.0, ridge=1e-6, preserve_weight=1.0, imagined_words=0, use_everyday_captions=False
    )
    patch = correct_concept(model, "apple", ["green apple"], inverted, settings)
    layer = model.cross_attention()[0]
    w = model.weights([(layer.name, "to_v")])[0]
    new = w + patch.factors[f"lora_unet_{layer.name}_to_v".replace(".", "_")].delta()
    word, context = model.encode(["a drawing of a apple on a table", "a drawing of a green apple on a table"])
    wanted = context.context[6] @ w.T
    before, after = (word.context[5] @ w.T - wanted).norm(), (word.context[5] @ new.T - wanted).norm()
    assert after < 0.3 * before
    assert (context.context[6] @ (new - w).T).norm() < 0.2 * wanted.norm()
    assert patch.settings["method"] == "concept correction"
    assert patch.concepts[0]["corrects"] == "apple" and patch.concepts[0]["contexts"] == ["green apple"]


def test_without_contexts_there_is_nothing_to_come_back(model, inverted):
    with pytest.raises(ForgetError, match="at least one context in which 'apple'"):
        correct_concept(model, "apple", [], inverted)

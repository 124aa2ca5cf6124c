"""Attacks: gradients of tokens, and that a search within a budget beats chance."""

import pytest
import torch
from toy_model import ToyModel

from fmn_core.attacks.search import Budget, TokenSearch, search_embedding, search_tokens, token_gradient
from fmn_core.errors import ForgetError
from fmn_core.model.tokens import PLACEHOLDER
from fmn_core.training.noised_batches import BatchSampler, denoising_loss
from fmn_core.training.references import References

TEMPLATES = ["a photo of a {}", "a {} in the park"]
PHRASE = "zebra stripes"


@pytest.fixture(scope="module")
def vocabulary():
    """Words of the toy by their ids."""
    letters = "abcdefgh"
    words = [a + b + c + d for a in letters for b in letters for c in letters for d in letters]
    return {i: f"{w}</w>" for w in [*words, *PHRASE.split()] for i in ToyModel().ids(w)}


def generator(seed):
    return torch.Generator().manual_seed(seed)


def draw(model, references, count, g):
    return BatchSampler(model, references, TEMPLATES, g).draw(count)


def held_out(model, references, words):
    """The mean loss of a text, or of vectors, on draws that no search has seen."""
    g = generator(12345)
    with torch.no_grad():
        return sum(float(draw(model, references, 8, g).loss(model, words)) for _ in range(20)) / 20


def test_loss_of_a_draw_is_the_denoising_loss(model, references):
    draws = draw(model, references, 3, generator(0))
    [prompt] = model.encode([draws.template.format("zebra")])
    predicted = model.denoise(draws.x, draws.sigma, [prompt] * 3)
    assert torch.equal(draws.loss(model, "zebra"), denoising_loss(predicted, draws.x0, draws.sigma, None))
    word = {"l": model.table[model.ids("zebra")]}
    torch.testing.assert_close(draws.loss(model, word), draws.loss(model, "zebra"))


def test_only_what_the_mask_shows_counts(model, references):
    masks = torch.zeros(1, 32, 32)
    masks[:, :16] = 1
    draws = draw(model, References(references.latents, masks), 2, generator(0))
    [prompt] = model.encode([draws.template.format("zebra")])
    error = (model.denoise(draws.x, draws.sigma, [prompt] * 2) - draws.x0) ** 2
    weight = (1 + draws.sigma**-2).clamp(max=5).view(-1, 1, 1, 1)
    torch.testing.assert_close(draws.loss(model, "zebra"), (error * weight)[:, :, :2].mean())


def test_gradient_of_tokens_against_autograd_and_finite_differences(model, references):
    draws = draw(model, references, 3, generator(1))
    start = model.table[model.ids(PHRASE)]
    found = token_gradient(model, draws, {"l": start})["l"]

    vectors = start.clone().requires_grad_()
    [prompt] = model.encode([draws.template.format(PLACEHOLDER)], [{"l": vectors}])
    predicted = model.denoise(draws.x, draws.sigma, [prompt] * 3)
    weight = (1 + draws.sigma**-2).clamp(max=5).view(-1, 1, 1, 1)
    (((predicted - draws.x0) ** 2) * weight).mean().backward()
    torch.testing.assert_close(found, vectors.grad)

    one_hot_slopes = found @ model.table.T
    for token in (5, 100, 700):
        step = 1e-3 * model.table[token]
        up, down = (start.clone() for _ in range(2))
        up[1] += step
        down[1] -= step
        slope = (draws.loss(model, {"l": up}) - draws.loss(model, {"l": down})) / 2e-3
        assert float(slope) == pytest.approx(float(one_hot_slopes[1, token]), rel=2e-2, abs=1e-4)


def random_search(model, references, vocabulary, budget, seed):
    """The best of random texts: as many evaluations, on the same kind of draws, as the search has."""
    g, ids = generator(seed), list(vocabulary)
    texts = [
        " ".join(vocabulary[ids[i]].removesuffix("</w>") for i in torch.randint(len(ids), (2,), generator=g))
        for _ in range(budget.steps * (budget.candidates + 2))
    ]
    with torch.no_grad():
        draws = draw(model, references, budget.batch, g)
        return min(texts, key=lambda t: float(draws.loss(model, t)))


def test_token_search_beats_random_tokens_of_the_same_budget(model, references, vocabulary):
    gains = []
    for seed in range(3):
        budget = Budget(steps=12, batch=8, candidates=12, seed=seed)
        found = search_tokens(model, references, TEMPLATES, PHRASE, budget, vocabulary)
        chance = random_search(model, references, vocabulary, budget, seed)
        gains.append(held_out(model, references, chance) - held_out(model, references, found))
        assert held_out(model, references, found) < held_out(model, references, PHRASE)
    assert sum(gains) > 0


def test_a_step_never_raises_the_loss_on_its_draws(model, references, vocabulary):
    search = TokenSearch(model, references, TEMPLATES, PHRASE, Budget(candidates=6), vocabulary)
    for _ in range(8):
        before, state = search.ids, search.generator.get_state()
        loss = search.step()
        same = draw(model, references, 4, generator(0).set_state(state))
        with torch.no_grad():
            assert loss <= float(same.loss(model, search.text(before)))


def test_found_text_is_made_of_words_and_reads_back(model, references, vocabulary):
    budget = Budget(steps=4, tokens=3, candidates=5)
    found = search_tokens(model, references, TEMPLATES, PHRASE, budget, vocabulary)
    ids = model.phrase_tokens(found)["l"]
    assert len(ids) == 3 and " ".join(vocabulary[i].removesuffix("</w>") for i in ids) == found
    assert found == search_tokens(model, references, TEMPLATES, PHRASE, budget, vocabulary)


def test_unknown_and_unreadable_tokens_are_never_used(model, references):
    model.table[10] = 0
    spelled = {10: "none</w>", 11: "pi", 12: "ä</w>", 13: "x1</w>"}
    with pytest.raises(ForgetError, match="words that the text encoder knows, got none"):
        search_tokens(model, references, TEMPLATES, PHRASE, Budget(), spelled)


def test_embedding_search_lowers_the_loss_and_starts_at_the_phrase(model, references):
    found = search_embedding(model, references, TEMPLATES, PHRASE, Budget(steps=40, batch=8))
    start = {"l": model.table[model.ids(PHRASE)]}
    assert found["l"].shape == start["l"].shape
    assert held_out(model, references, found) < held_out(model, references, start)
    short = search_embedding(model, references, TEMPLATES, PHRASE, Budget(steps=1, batch=1))
    assert 0 < float((short["l"] - start["l"]).abs().max()) < 0.2


def test_progress_may_end_a_search(model, references, vocabulary):
    told = []
    search_tokens(
        model, references, TEMPLATES, PHRASE, Budget(steps=9), vocabulary, lambda *a: told.append(a) or len(told) == 2
    )
    assert [(done, total) for done, total, _ in told] == [(1, 9), (2, 9)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps from 1"),
        ({"batch": 0}, "batch from 1"),
        ({"tokens": 33}, "tokens from 0 to 32"),
        ({"candidates": 0}, "candidates from 1"),
    ],
)
def test_a_budget_out_of_range_is_refused(changes, message):
    with pytest.raises(ForgetError, match=message):
        Budget(**changes)


def test_searches_refuse_a_phrase_without_tokens(model, references, vocabulary):
    with pytest.raises(ForgetError, match="the phrase that was forgotten"):
        search_tokens(model, references, TEMPLATES, "", Budget(), vocabulary)
    with pytest.raises(ForgetError, match="the phrase that was forgotten"):
        search_embedding(model, references, TEMPLATES, "", Budget())


def test_a_loss_that_is_not_finite_is_refused(model, vocabulary):
    broken = References(torch.full((1, 4, 4, 4), float("nan")))
    with pytest.raises(ForgetError, match="finite loss"):
        search_tokens(model, broken, TEMPLATES, PHRASE, Budget(steps=1), vocabulary)

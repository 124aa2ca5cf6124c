import pytest
import torch
from toy_model import ToyModel

from fmn_core.model.content_key import model_key
from fmn_core.model.encoding_cache import CachedEncoding, MemoizedEncoding
from fmn_core.model.memory_cache import Cache
from fmn_core.model.tokens import PLACEHOLDER

PROMPTS = [f"a picture of a {thing}" for thing in ["zebra", "horse", "dog", "fox", "cat", "tiger", "pizza", "guitar"]]


class Counting(ToyModel):
    """Counts the prompts it encodes; with pooled embeddings and long prompts as SDXL has them."""

    def __init__(self, pooled=False, **kwargs):
        super().__init__(**kwargs)
        self.pooled, self.encoded = pooled, []

    def encode(self, prompts, words=None, padding=None):
        self.encoded += prompts
        found = super().encode(prompts, words, padding)
        for prompt, e in zip(prompts, found):
            e.pooled = e.context[-1:] * 2 if self.pooled else None
            if prompt == PROMPTS[3]:
                e.context, e.tokens = e.context.repeat(2, 1), {k: v * 2 for k, v in e.tokens.items()}
        return found


def assert_equal(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        assert a.text == b.text and a.tokens == b.tokens and torch.equal(a.context, b.context)
        assert (a.pooled is None) == (b.pooled is None) and (a.pooled is None or torch.equal(a.pooled, b.pooled))
        assert not a.context.requires_grad


@pytest.mark.parametrize("pooled", [False, True])
def test_cached_encodings_equal_the_models_own(pooled):
    model, cache = Counting(pooled), Cache()
    for _ in range(2):
        cached = CachedEncoding(model, cache)
        for _ in range(2):
            assert_equal(cached.encode(PROMPTS), Counting(pooled).encode(PROMPTS))
    assert model.encoded.count(PROMPTS[0]) == 1
    assert_equal(cached.encode([*PROMPTS[1:], PROMPTS[0]]), Counting(pooled).encode([*PROMPTS[1:], PROMPTS[0]]))
    assert model.encoded.count(PROMPTS[0]) == 2


def test_short_lists_are_not_cached_and_the_rest_is_the_models():
    model = Counting()
    cached = CachedEncoding(model, Cache())
    for _ in range(2):
        assert_equal(cached.encode(PROMPTS[:7]), Counting().encode(PROMPTS[:7]))
    assert model.encoded == PROMPTS[:7] * 2 and cached._cache.size() == 0
    assert cached.cross_attention() is model.cross_attention() and cached.vocabulary is model.vocabulary
    assert torch.equal(cached.sigmas(), model.sigmas()) and model_key(cached) == model_key(ToyModel())
    with pytest.raises(AttributeError):
        _ = cached.nothing


def test_words_count_by_their_content_and_learned_ones_are_not_cached():
    model = Counting()
    cached, prompts = CachedEncoding(model, Cache()), [f"{p} {PLACEHOLDER}" for p in PROMPTS]
    generator = torch.Generator().manual_seed(0)
    one, two = ({"l": torch.randn(2, 24, generator=generator)} for _ in range(2))
    for words in ([one] * 8, [two] * 8, [one, None] * 4, [None] * 8, [one] * 8):
        assert_equal(cached.encode(prompts, words), Counting().encode(prompts, words))
    assert model.encoded.count(prompts[0]) == 4
    learned = {"l": one["l"].clone().requires_grad_()}
    for _ in range(2):
        found = cached.encode(prompts, [learned] * 8)
        assert found[0].context.requires_grad and torch.equal(
            found[0].context, cached.encode(prompts, [one] * 8)[0].context
        )
    assert model.encoded.count(prompts[0]) == 6


def test_another_text_encoder_or_tokenizer_is_another_entry():
    cache = Cache()
    CachedEncoding(Counting(), cache).encode(PROMPTS)
    other = Counting(seed=1)
    assert_equal(CachedEncoding(other, cache).encode(PROMPTS), Counting(seed=1).encode(PROMPTS))
    renamed = Counting()
    plain = renamed.ids
    renamed.ids = lambda text: [3 if "zebra" in text and i == 4 else n for i, n in enumerate(plain(text))]
    found = CachedEncoding(renamed, cache).encode(PROMPTS)
    assert found[0].tokens["l"][0][5] == 3 and found[1].tokens == Counting().encode(PROMPTS)[1].tokens


def test_a_prompt_is_encoded_once_in_memory_and_words_every_time():
    model = Counting()
    once = MemoizedEncoding(model)
    for prompts in (PROMPTS[:3], [PROMPTS[2], PROMPTS[5], PROMPTS[2]], PROMPTS, []):
        assert_equal(once.encode(prompts), Counting().encode(prompts))
    assert sorted(model.encoded) == sorted(PROMPTS)
    assert_equal(once.encode(PROMPTS[:2], [None, None]), Counting().encode(PROMPTS[:2]))
    assert len(model.encoded) == len(PROMPTS)
    word, prompt = {"l": torch.ones(1, 24)}, [f"a {PLACEHOLDER}"]
    for _ in range(2):
        assert_equal(once.encode(prompt, [word]), Counting().encode(prompt, [word]))
    assert model.encoded.count(prompt[0]) == 2 and once.vocabulary is model.vocabulary

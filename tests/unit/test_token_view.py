import pytest

from fmn_core.concepts.token_view import MOST_TOKENS, token_view
from fmn_core.model.tokens import CHUNK, Vocabulary

VOCABULARY = Vocabulary(1000, 1001, {"l": 1001})
WORDS = {"a": 1, "photo": 2, "of": 3, "zebra": 4, "santa": 5, "claus": 6, "horse": 7}
TEXTS = {n: w for w, n in WORDS.items()}


def chunked(words, at=CHUNK - 2):
    ids = [WORDS[w] for w in words]
    parts = [ids[i : i + at] for i in range(0, len(ids), at)] or [[]]
    return {"l": [[1000, *part, *[1001] * (CHUNK - 1 - len(part))] for part in parts]}


def view(words, *phrases, end_token="none", at=CHUNK - 2):
    ids = {p: {"l": [WORDS[w] for w in p.split()]} for p in phrases}
    return token_view(chunked(words, at), ids, VOCABULARY, end_token, lambda encoder, i: TEXTS[i])


def test_the_phrase_is_lit_and_the_end_marked():
    found = view(["a", "photo", "of", "santa", "claus"], "santa claus")
    assert [c["text"] for c in found["chips"]] == ["a", "photo", "of", "santa", "claus", "end"]
    assert [c["lit"] for c in found["chips"]] == [False, False, False, True, True, False]
    assert [c["end"] for c in found["chips"]] == [False] * 5 + [True]
    assert [c["column"] for c in found["chips"]] == [1, 2, 3, 4, 5, 6]
    assert found["warnings"] == []


@pytest.mark.parametrize("end_token", ["first", "all"])
def test_the_end_token_is_lit_where_it_counts(end_token):
    assert view(["zebra"], "zebra", end_token=end_token)["chips"][-1]["lit"]
    assert not view(["horse"], "zebra", end_token=end_token)["chips"][-1]["lit"]


def test_several_phrases_are_lit_together():
    found = view(["zebra", "horse", "a", "zebra"], "zebra", "horse")
    assert [c["lit"] for c in found["chips"]] == [True, True, False, True, False]


def test_an_absent_phrase_is_said():
    assert view(["horse"], "zebra")["warnings"] == ["'zebra' is not in the prompt"]
    assert view([], "zebra")["warnings"] == ["'zebra' is not in the prompt"]


def test_a_phrase_split_between_chunks_is_said():
    words = ["a"] * 74 + ["santa", "claus"]
    assert "is split between two chunks" in view(words, "santa claus")["warnings"][0]
    assert view(["a"] * 73 + ["santa", "claus"], "santa claus")["warnings"] == []


def test_a_phrase_longer_than_a_chunk_is_said():
    phrase = " ".join(["zebra"] * 76)
    assert "longer than 75 tokens" in view(["a"], phrase)["warnings"][0]


def test_columns_go_on_in_later_chunks_and_long_prompts_are_cut():
    found = view(["a"] * 75 + ["zebra"], "zebra")
    [lit] = [c for c in found["chips"] if c["lit"]]
    assert lit["column"] == CHUNK + 1
    found = view(["a"] * 75 * 6, "zebra")
    assert len(found["chips"]) == MOST_TOKENS and "more tokens are not shown" in found["warnings"][-1]

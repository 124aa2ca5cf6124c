import pytest

from fmn_core.errors import ForgetError
from fmn_core.model.tokens import Vocabulary, concept_columns, find_subsequence, strip_special

V = Vocabulary(start=1, end=2, pad={"l": 2, "g": 0})


def chunk(*ids, pad=2, length=12):
    body = [1, *ids, 2]
    return body + [pad] * (length - len(body))


def brute_force(tokens, phrase):
    return [i for i in range(len(tokens)) if tokens[i : i + len(phrase)] == phrase]


def test_all_occurrences_in_all_chunks():
    tokens = {"l": [chunk(5, 6, 7, 5, 6), chunk(9, 5, 6)]}
    assert concept_columns(tokens, {"l": [[5, 6]]}, V, "none") == [1, 2, 4, 5, 12 + 2, 12 + 3]


def test_end_token_choices_where_padding_is_the_end_token():
    tokens = {"l": [chunk(5, 6)]}
    assert concept_columns(tokens, {"l": [[5]]}, V, "first") == [1, 3]
    assert concept_columns(tokens, {"l": [[5]]}, V, "all") == [1, *range(3, 12)]


def test_end_token_choices_where_padding_is_another_token():
    tokens = {"g": [chunk(5, 6, pad=0)]}
    assert concept_columns(tokens, {"g": [[5]]}, V, "first") == [1, 3]


def test_chunks_without_the_phrase_keep_their_end_tokens():
    tokens = {"l": [chunk(5), chunk(8)]}
    assert all(c < 12 for c in concept_columns(tokens, {"l": [[5]]}, V, "all"))


def test_each_encoder_is_searched_with_its_own_ids():
    tokens = {"l": [chunk(5, 6)], "g": [chunk(8, 9, pad=0)]}
    assert concept_columns(tokens, {"l": [[5]], "g": [[9]]}, V, "none") == [1, 2]


def test_a_longer_word_that_shares_a_token_is_not_the_phrase():
    assert concept_columns({"l": [chunk(5, 7)]}, {"l": [[5, 6]]}, V, "all") == []


def test_overlapping_occurrences_are_counted_once():
    assert find_subsequence([5, 5, 5, 5], [5, 5]) == [0, 2]
    assert find_subsequence([5, 6, 5], [7]) == []
    assert find_subsequence([1, 2, 3], []) == []


def test_matches_brute_force_on_disjoint_phrases():
    tokens = [3, 4, 9, 3, 4, 8, 3, 4]
    assert find_subsequence(tokens, [3, 4]) == brute_force(tokens, [3, 4])


def test_strip_special_cuts_start_end_and_padding():
    assert strip_special([chunk(5, 6, 7)], V) == [5, 6, 7]
    assert strip_special([chunk()], V) == []


def test_unknown_end_token_choice_is_named():
    with pytest.raises(ForgetError, match="none, first, all.*'last'"):
        concept_columns({"l": [chunk(5)]}, {"l": [[5]]}, V, "last")

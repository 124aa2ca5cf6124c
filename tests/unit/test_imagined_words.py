"""Imagined words: what they look like, where they stand and what they protect."""

import dataclasses

import pytest
import torch
from toy_concepts import TEMPLATES

from fmn_core.closed_form import collect
from fmn_core.closed_form.collect import collect_moments
from fmn_core.closed_form.moments import Moments
from fmn_core.concepts.preserve import (
    IMAGINED_WORDS,
    encode_imagined,
    encode_imagined_styles,
    imagined_word_count,
    imagined_words,
)
from fmn_core.concepts.templates import style_slots
from fmn_core.model.tokens import row_weights

pytestmark = pytest.mark.usefixtures("whole_prompts")


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


def test_imagined_words_stand_where_a_style_would(model):
    prompts = encode_imagined_styles(model, 8)
    assert {prompt.text.replace("<concept>", "{}") for prompt in prompts} == set(style_slots()[:8])
    assert (
        len({prompt.tokens["l"][0][prompt.tokens["l"][0].index(min(prompt.tokens["l"][0]))] for prompt in prompts}) == 8
    )


def test_more_concepts_draw_more_words_that_weigh_no_more(model, zebra):
    concepts = [zebra, *(dataclasses.replace(zebra, phrases=[name]) for name in ("teapot", "wizard"))]
    assert [imagined_word_count(200, n) for n in (1, 3, 5, 9)] == [200, 600, 1000, 1000]
    assert imagined_word_count(0, 4) == 0 and imagined_word_count(1500, 3) == 1500
    none, some = (sum_of(collect_moments(model, concepts, [[""]], n)) for n in (0, 20))
    pp, rows = torch.zeros_like(none.pp), 0.0
    things = encode_imagined(model, concepts, 30, collect.PADDING)
    for prompt in [*things, *encode_imagined_styles(model, 30, collect.PADDING)]:
        weight = row_weights(prompt, model.vocabulary) / 3
        context = prompt.context.double()
        pp += (context * weight[:, None]).T @ context
        rows += float(weight.sum())
    torch.testing.assert_close(some.pp - none.pp, pp, atol=1e-6, rtol=1e-6)
    assert some.preserved - none.preserved == pytest.approx(rows)


def sum_of(halves):
    return halves[0] + halves[1]

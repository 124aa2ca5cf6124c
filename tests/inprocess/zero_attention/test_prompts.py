"""Prompts of every shape under Zero Concept Attention: long, joined, stacked, cut, or encoded by another node."""

import pytest
import torch
from forget_me_not.nodes.adapter.chunk_memory import ChunkMemory, encoded_chunks
from forget_me_not.nodes.adapter.concept_columns import ConceptColumns
from forget_me_not.nodes.adapter.model import ComfyModel
from inprocess.sampling import sample
from inprocess.zero_attention.comparison import check, columns_of
from inprocess.zero_attention.zero_reference import Stage
from prompts import HORSE, ZEBRA

from fmn_core.errors import ForgetError

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

FILL = "a house and a guitar and a banana, " * 12


def test_weighted_words(miniature, zero, encode):
    positive, negative = encode("a picture of a (zebra:1.3) in (noto style:0.8)"), encode("")
    check(miniature, zero(), [Stage([(positive[0][0][0], [5])])], positive, negative)


def test_long_prompts_are_batched_with_short_ones(miniature, zero, encode):
    """The host repeats the short conditioning to the length of the long one."""
    long, short = encode(FILL + "a zebra"), encode("a zebra")
    assert long[0][0].shape[1] == 154
    prompts = [(long[0][0][0], columns_of(miniature, FILL + "a zebra", "zebra")), (short[0][0][0], [2])]
    check(miniature, zero(), [Stage(prompts)], long, short)


def test_phrase_that_the_host_breaks_between_chunks(miniature, zero, encode):
    text = next(t for t in (f"{'fox ' * n}santa claus and a horse" for n in range(60, 80)) if breaks(miniature, t))
    positive, negative = encode(text), encode("")
    columns = columns_of(miniature, text, "santa", "claus")
    assert columns == [75, 78]
    check(miniature, zero(phrase="santa claus"), [Stage([(positive[0][0][0], columns)])], positive, negative)
    ends = zero(phrase="santa claus", end_token="first")
    end = miniature[1].tokenize(text)["l"][1].index((49407, 1.0)) + 77
    check(miniature, ends, [Stage([(positive[0][0][0], [75, 76, 78, end])])], positive, negative)


def breaks(miniature, text):
    columns = columns_of(miniature, text, "santa", "claus")
    return columns[0] // 77 != columns[1] // 77


def test_joined_conditionings(miniature, zero, encode, core):
    """Conditioning (Concat) keeps the tokens of the first prompt only."""
    joined = core.ConditioningConcat().concat(encode(HORSE), encode("a house and a zebra"))[0]
    check(miniature, zero(), [Stage([(joined[0][0][0], [77 + 5])])], joined, encode("a horse"))


def test_prompts_stacked_into_one_conditioning(miniature, zero, encode):
    """A batch of pictures with a prompt each, as scheduling nodes make it."""
    first, second = encode(HORSE), encode(ZEBRA)
    stacked = [[torch.cat([first[0][0], second[0][0]]), first[0][1]]]
    check(miniature, zero(), [Stage([(second[0][0][0], [5])])], stacked, encode(""), batch=2)


def test_truncated_conditioning(miniature, zero, encode):
    positive, negative = encode(ZEBRA), encode("")
    for rows, kept in ((7, [5]), (5, [])):
        cut = [[positive[0][0][:, :rows], positive[0][1]]]
        model, stage = zero(end_token="first"), Stage([(cut[0][0][0], kept)])
        if kept:
            check(miniature, model, [stage], cut, negative)
        else:
            assert torch.equal(sample(model, cut, negative), sample(miniature[0], cut, negative))


def test_columns_are_found_in_half_precision_and_repeated(miniature):
    adapter = ComfyModel(miniature[0], miniature[1])
    columns = ConceptColumns(adapter, ["zebra"], "none", 0.5)
    columns.learn(miniature[1], ["a zebra", "a horse"])
    context = torch.stack([prompt.context for prompt in adapter.encode(["a zebra", "a horse", "a fox"])])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        weight, known = columns.find(context.repeat(1, 3, 1).to(dtype))
        assert [row.nonzero().flatten().tolist() for row in weight] == [[2, 79, 156], [], []]
        assert weight.max() == 0.5 and known.tolist() == [True, True, False]


def test_forgotten_chunks_are_an_error_not_a_miss(miniature, zero, encode, core):
    joined = core.ConditioningConcat().concat(encode(HORSE), encode("a house and a zebra"))[0]
    small = ChunkMemory(limit=2)
    for text in ("a zebra", "a fox", "a horse"):
        small.remember(encode(text)[0][0][0], {"l": [[0] * 77]})
    assert small.recall(encode("a zebra")[0][0][0]) is None and small.recall(encode("a horse")[0][0][0])
    encoded_chunks._prompts.clear()
    with pytest.raises(ForgetError, match="none of the prompts"):
        sample(zero(), joined, encode(""))
    listed = zero(prompts="a house and a zebra")
    check(miniature, listed, [Stage([(joined[0][0][0], [77 + 5])])], joined, encode(""))


def test_prompts_of_other_encoders(miniature, zero, encode, core):
    stock = core.CLIPTextEncode().encode(miniature[1], "a zebra of another encoder")[0]
    known, negative = encode(HORSE), encode("")
    with pytest.raises(ForgetError, match="knows none of the prompts"):
        sample(zero(), stock, negative)
    with pytest.raises(ForgetError, match="knows only some of the prompts"):
        sample(zero(), [*known, *stock], negative)
    with pytest.raises(ForgetError, match="knows none of the prompts"):
        sample(zero(), core.ConditioningConcat().concat(known, stock)[0], negative)
    zeros = core.ConditioningZeroOut().zero_out(stock)[0]
    assert torch.equal(sample(zero(), known, zeros), sample(miniature[0], known, zeros))

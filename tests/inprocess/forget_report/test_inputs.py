"""Inputs of Forgetting Report: their order, the pairs for the slider, and what is refused."""

import itertools

import pytest
import torch
from forget_me_not.nodes.scores.forget_report import ForgetReport
from inprocess.forget_report.parts import BLUE, RED, plain

from fmn_core.errors import ForgetError


def test_inputs_keep_their_order_and_the_new_ones_are_optional():
    inputs = ForgetReport.define_schema().inputs
    assert [i.id for i in inputs] == [
        "before", "after", "forget_patch", "scores", "attention_before", "attention_after", "filename_prefix",
    ]  # fmt: skip
    assert [i.optional for i in inputs] == [False, False, *itertools.repeat(True, 5)]


def test_the_slider_gets_every_pair_and_nothing_else(run):
    shown = run(plain(RED, 3), plain(BLUE, 3))[2]
    assert shown.keys() == {"fmn_before", "fmn_after"} and all(len(files) == 3 for files in shown.values())


BAD = {
    "other counts": ({"after": plain(BLUE, 2)}, "got 1 of 64 x 64 and 2 of 64 x 64"),
    "other sizes": ({"after": plain(BLUE, 1, 64, 128)}, "got 1 of 64 x 64 and 1 of 128 x 64"),
    "grey attention": ({"attention_before": torch.zeros(1, 64, 64, 1)}, "Expected RGB images"),
    "no attention in it": ({"attention_after": torch.zeros(0, 64, 64, 3)}, "at least one picture"),
    "scores of another kind": ({"scores": "0.9"}, "Expected scores with a name and a number each, got '0.9'"),
    "a score without a value": ({"scores": [{"score": "a"}]}, "Connect the output scores"),
    "a score that is a word": ({"scores": [{"score": "a", "value": "high"}]}, "Connect the output scores"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(run, outputs, case):
    inputs, message = BAD[case]
    with pytest.raises(ForgetError, match=message):
        run(**inputs)
    assert list(outputs.iterdir()) == []

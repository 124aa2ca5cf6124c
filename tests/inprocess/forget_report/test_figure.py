"""The figure of Forgetting Report: what it shows, and where."""

import math

import numpy as np
import pytest
import torch
from forget_me_not.nodes.ui import text_drawing
from forget_me_not.nodes.ui.pictures import curves
from forget_me_not.nodes.ui.text_drawing import paragraph
from hypothesis import given, settings
from hypothesis import strategies as st
from inprocess.forget_report.parts import (
    BLUE,
    CURVES,
    GREEN,
    LAYERS,
    LONG,
    MARGIN,
    RED,
    SCORES,
    SIDE,
    VIOLET,
    patch,
    pixels,
    plain,
    where,
)

CASES = {
    "only pictures": {},
    "closed form": {"figures": LAYERS},
    "by gradient": {"figures": CURVES},
    "by gradient, one step": {"figures": {"losses": [0.5], "mass": [0.1], "drift": [[1, 0.2]]}},
    "many long names": {"figures": LAYERS, "concepts": LONG},
    "one word that never ends": {"figures": LAYERS, "concepts": [{"phrases": ["w" * 2000]}]},
    "scores": {"scores": SCORES},
    "a long score": {"scores": [{"score": "s " * 300, "value": 1e-9, "low": -1e-9, "high": 1e-8, "note": "n" * 3000}]},
    "attention": {"attention": ("before", "after")},
    "attention, after only": {"attention": ("after",)},
    "all": {"figures": CURVES, "concepts": LONG, "scores": SCORES * 6, "attention": ("before", "after")},
}


def inputs_of(case, height, width):
    parts, colours = CASES[case], {"before": GREEN, "after": VIOLET}
    inputs = {f"attention_{k}": plain(colours[k], 1, height, width) for k in parts.get("attention", ())}
    if "figures" in parts:
        inputs["forget_patch"] = patch(parts["figures"], parts.get("concepts", LONG[:1]))
    return inputs | {k: v for k, v in parts.items() if k == "scores"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("count", "height", "width"), [(1, 64, 64), (9, 64, 64), (3, 64, 512), (3, 512, 64), (1, 8, 4096)]
)
def test_every_picture_is_whole_and_nothing_reaches_the_edge(run, case, count, height, width):
    inputs = inputs_of(case, height, width)
    figure, _, _ = run(plain(RED, count, height, width), plain(BLUE, count, height, width), **inputs)
    page, one = pixels(figure), max(1, SIDE * height // max(height, width)) * max(1, SIDE * width // max(height, width))
    for colour, shown in (
        (RED, count),
        (BLUE, count),
        (GREEN, "attention_before" in inputs),
        (VIOLET, "attention_after" in inputs),
    ):
        assert len(where(figure, colour)[0]) == shown * one
    for edge in (page[:MARGIN], page[-MARGIN:], page[:, :MARGIN], page[:, -MARGIN:]):
        assert (edge == 255).all()
    assert where(figure, RED)[0].min() < where(figure, BLUE)[0].min()


def test_pictures_stand_in_their_order_eight_beside_each_other(run):
    colours = [(20 * k, 0, 0) for k in range(1, 13)]
    figure, _, _ = run(torch.cat([plain(c) for c in colours]), plain(BLUE, 12))
    corners = [tuple(int(i.min()) for i in where(figure, c)) for c in colours]
    tops, lefts = zip(*corners)
    assert len(set(tops[:8])) == len(set(tops[8:])) == 1 and tops[8] > tops[0]
    assert np.diff(lefts[:8]).tolist() == [SIDE + 4] * 7 and lefts[8:] == lefts[:4]
    below = {int(top) for top in np.unique(where(figure, BLUE)[0])}
    assert tops[0] + SIDE + 4 in below and tops[8] + SIDE + 4 in below and tops[8] not in below


def test_the_optional_parts_show_and_the_closed_form_has_no_curves(run):
    """By what each adds to the height of the figure of one wide row, and by the colour of curves."""
    bare = run(plain(RED, 8), plain(BLUE, 8))[0].shape[1]
    curve = (214, 69, 65)
    closed, _, _ = run(plain(RED, 8), plain(BLUE, 8), forget_patch=patch())
    trained, _, _ = run(plain(RED, 8), plain(BLUE, 8), forget_patch=patch(CURVES))
    scored, _, _ = run(plain(RED, 8), plain(BLUE, 8), scores=SCORES)
    assert closed.shape[1] == bare and len(where(closed, curve)[0]) == 0
    assert trained.shape[1] > bare + 300 and len(where(trained, curve)[0]) > 500
    assert scored.shape[1] > bare + 80


def test_the_title_names_what_is_forgotten(run):
    """The same head as a page drawn from the words: pixel for pixel, so that other words give another head."""
    figure, _, _ = run(forget_patch=patch(method="closed form"))
    head = np.array(paragraph("forgets: zebra", figure.shape[2] - 2 * MARGIN, 20))
    assert (pixels(figure)[MARGIN : MARGIN + head.shape[0], MARGIN:-MARGIN] == head).all() and head.min() < 60


def test_a_curve_goes_through_its_points():
    """At steps 1, 3 and 5 of 5: the left edge, the middle and the right edge, at the values' heights."""
    page = np.array(curves({"drift": [0.0, 1.0, 0.5]}, 5, "", (424, 264), [1, 3, 5]))
    rows, columns = np.nonzero((page[:236] == (214, 69, 65)).all(-1))
    at = {x: rows[columns == x].mean() for x in (24, 216, 407)}
    assert columns.min() >= 22 and columns.max() <= 409
    assert at[24] == pytest.approx(232, abs=3) and at[216] == pytest.approx(32, abs=3)
    assert at[407] == pytest.approx(132, abs=3)


def test_a_stranger_s_figures_are_left_out_where_they_cannot_be_drawn(run):
    bare = run(forget_patch=patch())[0].shape
    strange = [
        {"losses": "abc"}, {"losses": [1, "a"]}, {"losses": [math.nan]}, {"losses": [10**400]}, {"losses": []},
        {"drift": [[1]]}, {"drift": [[1, math.inf]]}, {"drift": {"a": 1}}, {"drift": [7]}, {"mass": None},
    ]  # fmt: skip
    for figures in strange:
        assert run(forget_patch=patch(figures))[0].shape == bare, figures


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=200), width=st.integers(30, 400), most=st.integers(1, 6))
def test_lines_keep_within_their_width_and_lose_no_word_that_fits(text, width, most):
    lines = text_drawing.wrap_text(text, 14, width, most)
    assert len(lines) <= most and all(text_drawing.font(14).getlength(line) <= width for line in lines)
    joined, whole = "".join("".join(lines).split()), "".join(text.split())
    assert joined == whole or (joined.endswith("…") and whole.startswith(joined[:-1]) and len(lines) == most)

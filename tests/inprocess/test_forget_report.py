"""Forget Report inside this process: what the figure shows and where, what the JSON says, and what is saved."""

import contextlib
import itertools
import json
import math
import resource
import shutil

import numpy as np
import pytest
import torch
from forget_me_not.nodes.forget.train_patch import TrainForgetPatch
from forget_me_not.nodes.scores.forget_report import ForgetReport
from forget_me_not.nodes.scores.save_report import save_report
from forget_me_not.nodes.ui import text_drawing
from forget_me_not.nodes.ui.pictures import curves
from forget_me_not.nodes.ui.text_drawing import paragraph
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prompts import train_inputs

from fmn_core import __version__
from fmn_core.errors import ForgetError
from fmn_core.patch.patch import ForgetPatch

RED, BLUE, GREEN, VIOLET = (255, 0, 0), (0, 0, 255), (0, 128, 0), (128, 0, 128)
MARGIN, SIDE = 16, 256
SCORES = [
    {"score": "unlearning accuracy", "value": 0.9375, "low": 0.84, "high": 1.0, "note": "32 pictures"},
    {"score": "M-Score", "value": float("nan"), "low": None, "high": None, "note": ""},
]
CURVES = {
    "losses": [0.9 - 0.02 * k for k in range(35)],
    "mass": [0.1 / (k + 1) for k in range(35)],
    "drift": [[k, 0.001 * k] for k in (10, 20, 30, 35)],
}
LAYERS = {"layers": {"mid.0": {"missed": 0.1, "drift": 0.01}}, "rank": 4}
LONG = [{"phrases": [f"an unusually long name of a concept, number {n}, " * 4]} for n in range(12)]


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """The host's output folder, empty; its folder of temporary files is elsewhere."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


@pytest.fixture
def run():
    """The node with red pictures before and blue ones after, in the host's inference mode; figure, JSON and ui."""

    def execute(before=None, after=None, node=None, **inputs):
        before, after = plain(RED) if before is None else before, plain(BLUE) if after is None else after
        with torch.inference_mode():
            found = (node or ForgetReport).execute(before, after, **inputs)
        return *found.args, found.ui

    return execute


def plain(colour, count=1, height=64, width=64):
    return (torch.tensor(colour) / 255).expand(count, height, width, 3).clone()


def patch(figures=LAYERS, concepts=({"phrases": ["zebra"]},), **settings):
    return ForgetPatch({}, list(concepts), {"architecture": "stable-diffusion-v1"}, settings, figures)


def pixels(figure):
    return (figure[0].numpy() * 255).round().astype(np.uint8)


def where(figure, colour):
    """Rows and columns of the pixels of exactly one colour."""
    return np.nonzero((pixels(figure) == np.array(colour)).all(-1))


# --- the figure ---

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
    ("count", "height", "width"), [(1, 64, 64), (8, 64, 64), (9, 64, 64), (3, 64, 512), (3, 512, 64), (1, 8, 4096)]
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


# --- the JSON ---


def no_such_constant(name):
    raise AssertionError(f"{name} is not JSON")


def test_the_json_says_what_was_measured(run):
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.rand(3, 24, 40, 3, generator=generator) for _ in range(2))
    one = patch(CURVES, [{"phrases": ["zebra"], "kind": "object", "embedding": {"x": [0.5]}}], seed=7)
    _, said, _ = run(before, after, forget_patch=one, scores=SCORES)
    found = json.loads(said, parse_constant=no_such_constant)
    assert found["version"] == __version__ and found["base"] == {"architecture": "stable-diffusion-v1"}
    assert found["concepts"] == [{"phrases": ["zebra"], "kind": "object"}] and found["settings"] == {"seed": 7}
    assert found["figures"] == CURVES and found["figure"] == "report_00001_.png"
    assert found["scores"] == [SCORES[0], SCORES[1] | {"value": "NaN"}]
    reference = np.mean((after.double().numpy() - before.double().numpy()) ** 2)
    assert found["mean_squared_drift"] == pytest.approx(reference, rel=1e-5)
    assert list(found) == sorted(found)


def test_numbers_that_are_not_finite_are_strings(run):
    one = patch({"a": math.nan, "b": [math.inf, {"c": -math.inf}]})
    found = json.loads(run(forget_patch=one)[1], parse_constant=no_such_constant)
    assert found["figures"] == {"a": "NaN", "b": ["Infinity", {"c": "-Infinity"}]}


def test_without_a_patch_the_json_has_the_same_keys(run):
    found = json.loads(run()[1])
    assert found.keys() == json.loads(run(forget_patch=patch())[1]).keys()
    assert found["concepts"] == found["scores"] == [] and found["base"] == found["settings"] == found["figures"] == {}


# --- what is saved ---


def test_figure_and_json_are_saved_under_one_number_and_never_over_another(run, outputs):
    folder = outputs / "forget_me_not"
    said = [run()[1] for _ in range(2)]
    (folder / "report_00001_.png").unlink()
    said.append(run()[1])
    names = [json.loads(text)["figure"] for text in said]
    assert names == ["report_00001_.png", "report_00002_.png", "report_00003_.png"]
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [*names[1:], *(name.replace(".png", ".json") for name in names)]
    )
    for name, text in zip(names, said):
        assert (folder / name.replace(".png", ".json")).read_text() == text


def test_the_png_is_the_figure(run, outputs):
    figure, _, _ = run(filename_prefix="a/b_%width%x%height%")
    saved = outputs / "a" / f"b_{figure.shape[2]}x{figure.shape[1]}_00001_.png"
    assert np.array_equal(np.array(Image.open(saved)), pixels(figure))


def test_a_number_that_the_host_does_not_see_is_taken_is_not_used(run, outputs):
    """The host looks for files of the prefix as it is typed, and this part of it is replaced later."""
    for number in (1, 2):
        assert json.loads(run(filename_prefix="r%batch_num%")[1])["figure"] == f"r0_{number:05}_.png"
    assert len(list(outputs.iterdir())) == 4


@pytest.mark.parametrize("prefix", ["", "   "])
def test_an_empty_prefix_saves_nothing(run, outputs, prefix):
    assert json.loads(run(filename_prefix=prefix)[1])["figure"] == "" and list(outputs.iterdir()) == []


@pytest.fixture
def executing():
    """The node class as the host hands it a prompt and a workflow."""
    hidden = {"PROMPT": {"1": {"class_type": "é"}}, "EXTRA_PNGINFO": {"workflow": {"nodes": []}}}
    # newer hosts wrap them, older ones skip the key they do not know
    return ForgetReport.PREPARE_CLASS_CLONE(hidden | {"hidden_inputs": hidden})


def test_the_png_holds_prompt_and_workflow(run, outputs, executing):
    run(node=executing)
    said = Image.open(outputs / "forget_me_not" / "report_00001_.png").text
    assert {k: json.loads(v) for k, v in said.items()} == {
        "prompt": {"1": {"class_type": "é"}},
        "workflow": {"nodes": []},
    }


def test_it_holds_neither_where_the_host_disables_metadata(run, outputs, executing, monkeypatch):
    from comfy.cli_args import args

    monkeypatch.setattr(args, "disable_metadata", True)
    run(node=executing)
    assert Image.open(outputs / "forget_me_not" / "report_00001_.png").text == {}


@pytest.mark.parametrize("prefix", ["../outside", "/outside", "a/../../outside"])
def test_a_prefix_outside_the_output_folder(run, outputs, prefix):
    with pytest.raises(ForgetError, match="^Expected a filename_prefix inside the output folder"):
        run(filename_prefix=prefix)
    assert list(outputs.iterdir()) == [] and not list(outputs.parent.glob("outside*"))


@pytest.mark.parametrize("prefix", ["taken/report", "n" * 300, "a\0b", "\ud800"])
def test_a_prefix_that_the_disk_refuses_leaves_nothing(run, outputs, prefix):
    (outputs / "taken").write_text("a file where a folder is wanted")
    with pytest.raises(ForgetError, match="the disk refused"):
        run(filename_prefix=prefix)
    assert [p.name for p in outputs.iterdir()] == ["taken"]


@contextlib.contextmanager
def file_size_limit(size):
    """The disk takes no file larger than `size` bytes."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.mark.parametrize("fault", ["full", "a file in its place"])
@pytest.mark.parametrize("folder", ["temp", "output"])
def test_a_folder_that_takes_no_file_is_a_sentence_and_leaves_nothing(run, outputs, folder, fault):
    faulty = outputs.parent / folder
    noise = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    # pictures of noise need more than this, the figure of plain ones too
    with file_size_limit(500) if fault == "full" else contextlib.nullcontext():
        if fault != "full":
            shutil.rmtree(faulty, ignore_errors=True)
            faulty.write_text("a file")
        with pytest.raises(ForgetError, match="the disk refused: .*Free some space") as caught:
            run(noise, noise, filename_prefix="" if folder == "temp" else "report")
    assert "\n" not in str(caught.value)
    for name in (outputs, outputs.parent / "temp"):
        assert not name.is_dir() or not list(name.glob("report*"))


def test_no_figure_stays_where_its_numbers_could_not_be_written(outputs):
    def report(name):
        raise OSError("no space left")

    with pytest.raises(ForgetError, match="the disk refused: no space left"):
        save_report(Image.new("RGB", (8, 8)), "report", {}, report)
    assert list(outputs.iterdir()) == []


# --- inputs ---


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


def test_pictures_that_are_not_finite(run):
    figure, said, _ = run(before=torch.full((1, 16, 16, 3), math.nan), after=torch.full((1, 16, 16, 3), 7.0))
    assert (
        torch.isfinite(figure).all()
        and json.loads(said, parse_constant=no_such_constant)["mean_squared_drift"] == "NaN"
    )


def test_a_real_training_by_gradient_brings_its_curves(run, miniature):
    """From Train Forget Patch: as many points as steps, and the figures as they are in the patch."""
    model, clip, _ = miniature
    inputs = train_inputs(method="attention re-steering", steps=3, file_name="") | {"model": model, "clip": clip}
    with torch.inference_mode():
        trained = TrainForgetPatch.execute(**inputs).args[1]
    bare, (figure, said, _) = run()[0], run(forget_patch=trained)
    assert figure.shape[1] > bare.shape[1] + 300 and len(where(figure, (214, 69, 65))[0]) > 300
    found = json.loads(said, parse_constant=no_such_constant)["figures"]
    assert found == trained.figures and len(found["losses"]) == 3 and found["drift"][-1][0] == 3

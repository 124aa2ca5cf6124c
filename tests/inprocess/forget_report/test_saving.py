"""What Forgetting Report saves: figure and JSON under one number, or nothing."""

import contextlib
import json
import resource
import shutil

import numpy as np
import pytest
import torch
from forget_me_not.nodes.scores.forget_report import ForgetReport
from forget_me_not.nodes.scores.save_report import save_report
from inprocess.forget_report.parts import pixels
from PIL import Image

from fmn_core.errors import ForgetError


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

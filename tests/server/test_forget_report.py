"""Forgetting Report through the real server: what it leaves in the output folder, and what a shared prompt of before still gets."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image
from prompts import ZEBRA, attention_map, pictures, sampled, train, uncached

from tools.comfy_server import NodeError

_fresh = itertools.count()


@pytest.fixture
def folder(server):
    """A folder of its own for every test, below the output folder."""
    return server.base / "output" / f"reports_{next(_fresh)}"


def report(**changes) -> dict:
    """A training by gradient, pictures before and after, and the report as node "report"; its JSON in node "said"."""
    inputs = {"before": ["a.decode", 0], "after": ["b.decode", 0], "forget_patch": ["train", 1]}
    nodes = train(method="attention re-steering", file_name="")
    nodes |= sampled("a", ["mini", 0], ZEBRA, batch=2, steps=2) | sampled("b", ["train", 0], ZEBRA, batch=2, steps=2)
    nodes["report"] = {"class_type": "FMN_ForgetReport", "inputs": inputs | changes}
    nodes["figure"] = {"class_type": "PreviewImage", "inputs": {"images": ["report", 0]}}
    nodes["said"] = {"class_type": "PreviewAny", "inputs": {"source": ["report", 1]}}
    return nodes


def test_figure_and_json_are_in_the_output_folder(server, patches, folder):
    attention = {"attention_before": ["map", 0]}
    prompt = report(filename_prefix=f"{folder.name}/zebra", **attention) | attention_map()
    outputs = server.run(prompt)
    assert sorted(p.name for p in folder.iterdir()) == ["zebra_00001_.json", "zebra_00001_.png"]
    text = (folder / "zebra_00001_.json").read_text()
    found = json.loads(text)
    assert outputs["said"]["text"] == [text] and found["figure"] == "zebra_00001_.png"
    assert found["concepts"][0]["phrases"] == ["zebra"] and found["settings"]["method"] == "attention re-steering"
    assert len(found["figures"]["losses"]) == 3 and found["mean_squared_drift"] > 0 and found["scores"] == []
    saved = Image.open(folder / "zebra_00001_.png")
    assert np.array_equal(np.array(saved), pictures(server, outputs, "figure")[0].numpy())
    assert json.loads(saved.text["prompt"])["report"]["inputs"]["filename_prefix"] == f"{folder.name}/zebra"
    assert len(outputs["report"]["fmn_before"]) == len(outputs["report"]["fmn_after"]) == 2


def test_a_second_run_gets_the_next_number(server, patches, folder):
    for _ in range(2):
        server.run(uncached(report(filename_prefix=f"{folder.name}/zebra")))
    names = sorted(p.name for p in folder.iterdir())
    assert names == [f"zebra_0000{n}_.{kind}" for n in (1, 2) for kind in ("json", "png")]


def test_a_prompt_without_the_added_inputs_is_accepted(server, patches):
    """As it was shared before there were any: the report then goes where the node's default says."""
    outputs = server.run(report())
    name = json.loads(outputs["said"]["text"][0])["figure"]
    assert (server.base / "output" / "forget_me_not" / name).is_file()


def test_a_prefix_outside_the_output_folder(server, patches):
    with pytest.raises(NodeError, match="^Expected a filename_prefix inside the output folder") as caught:
        server.run(report(filename_prefix="../../elsewhere"))
    assert caught.value.node == "report" and not list(server.base.glob("elsewhere*"))


def test_pictures_that_do_not_match(server, patches, folder):
    with pytest.raises(NodeError, match="as many pictures of one size before and after"):
        server.run(report(after=["map", 0], filename_prefix=f"{folder.name}/zebra") | attention_map(width=64))
    assert not folder.exists()

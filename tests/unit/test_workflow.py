import itertools
import json
import re

import pytest
from PIL import Image

from tools.comfy_host import REPOSITORY
from tools.workflow import to_api, widget_names
from tools.workflows.shipped import CHINESE_NOTES, notes, shipped

INFO = {
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "name": [["a", "b"], {}],
            },
            "optional": {"text": ["STRING", {}], "linked_only": ["STRING", {"forceInput": True}]},
        },
        "input_order": {"required": ["model", "seed", "steps", "name"], "optional": ["text", "linked_only"]},
    },
    "Loader": {"input": {"required": {}}},
}


def graph(**changes):
    sampler = {
        "id": 2,
        "type": "Sampler",
        "title": "mine",
        "inputs": [{"name": "model", "link": 7}, {"name": "text", "link": None}],
        "widgets_values": [5, "fixed", 30, "b", "hello"],
    }
    nodes = [{"id": 1, "type": "Loader"}, sampler | changes, {"id": 3, "type": "MarkdownNote", "widgets_values": ["x"]}]
    return {"nodes": nodes, "links": [[7, 1, 0, 2, 0, "MODEL"]]}


def test_widgets_come_in_order_and_the_control_widget_is_skipped():
    assert widget_names(INFO["Sampler"]) == ["seed", "", "steps", "name", "text"]
    api = to_api(graph(), INFO)
    assert set(api) == {"1", "2"}
    assert api["2"]["inputs"] == {"model": ["1", 0], "seed": 5, "steps": 30, "name": "b", "text": "hello"}
    assert api["2"]["_meta"]["title"] == "mine"


def test_a_linked_widget_takes_the_link():
    inputs = [{"name": "model", "link": 7}, {"name": "text", "widget": {"name": "text"}, "link": 7}]
    assert to_api(graph(inputs=inputs), INFO)["2"]["inputs"]["text"] == ["1", 0]


def test_unknown_types_are_named():
    with pytest.raises(ValueError, match="'Other'"):
        to_api(graph(type="Other"), INFO)


MEASURES = "14 Score a patch"
SHIPPED = pytest.mark.parametrize("path", sorted((REPOSITORY / "workflows").glob("*.json")), ids=lambda p: p.stem)
TITLE_BAR = 30  # above a node's position


@SHIPPED
def test_shipped_workflows_are_whole(path):
    """Every link joins two nodes that are there, and both ends know it."""
    data = json.loads(path.read_text())
    nodes = {n["id"]: n for n in data["nodes"]}
    for link, source, slot, target, place, kind in data["links"]:
        assert link in nodes[source]["outputs"][slot]["links"] and kind in (nodes[source]["outputs"][slot]["type"], "*")
        assert nodes[target]["inputs"][place]["link"] == link


@SHIPPED
def test_shipped_workflows_are_laid_out_without_overlap(path):
    boxes = []
    for node in json.loads(path.read_text())["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        boxes.append((x, y - TITLE_BAR, x + width, y + height))
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


@SHIPPED
def test_shipped_workflows_are_small_grouped_and_plain(path):
    """Few nodes, in groups; notes without inline code, which dark themes colour badly; a download for every checkpoint."""
    data = json.loads(path.read_text())
    assert len(data["nodes"]) <= (8 if path.stem.startswith("01") else 22 if path.stem == MEASURES else 15)
    assert len(data["groups"]) >= 2 and data["extra"]["ds"]["scale"] >= 0.6
    [note] = [n for n in data["nodes"] if n["type"] == "MarkdownNote"]
    assert note["widgets_values"][0].startswith("# ") and "`" not in note["widgets_values"][0]
    for node in data["nodes"]:
        if node["type"] == "CheckpointLoaderSimple":
            [model] = node["properties"]["models"]
            assert model["name"] == node["widgets_values"][0] and model["directory"] == "checkpoints"
        if node["type"] == "LoadImage":
            assert node["widgets_values"][0] == "example.png"


def test_shipped_workflows_are_those_of_the_builder_the_starter_first():
    files = sorted(path.stem for path in (REPOSITORY / "workflows").glob("*.json"))
    assert files == [workflow.name for workflow in shipped()] and files[0] == "01 Forget a concept"


@SHIPPED
def test_shipped_workflows_have_a_thumbnail(path):
    assert Image.open(path.with_suffix(".jpg")).size == (512, 512)


def test_every_shipped_workflow_has_a_chinese_note():
    assert list(json.loads(CHINESE_NOTES.read_text(encoding="utf-8"))) == [workflow.name for workflow in shipped()]


@pytest.mark.parametrize("workflow", shipped(), ids=lambda w: w.name)
def test_a_shipped_workflow_holds_its_note_in_both_languages(workflow):
    """The page replaces the English text by the Chinese one, which has the same steps and figures."""
    data = json.loads((REPOSITORY / "workflows" / f"{workflow.name}.json").read_text(encoding="utf-8"))
    [note] = [n for n in data["nodes"] if n["type"] == "MarkdownNote"]
    english, chinese = (notes(workflow)[name] for name in ("fmn_en", "fmn_zh"))
    assert note["properties"] == notes(workflow) and note["widgets_values"] == [english]
    for pattern in (r"^\d+\. ", r"\d+(?:\.\d+)?"):
        found = [sorted(re.findall(pattern, text, re.MULTILINE)) for text in (english, chinese)]
        assert found[0] == found[1]
    assert chinese.startswith("# ") and "`" not in chinese and re.search(r"[\u4e00-\u9fff]", chinese)

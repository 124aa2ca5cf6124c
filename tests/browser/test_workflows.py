"""Every shipped workflow opens in the real front end, is converted by it, and runs to its end from there."""

import itertools
import json

import pytest
from prompts import FEWER, saved_files

from fmn_core.patch.file import load_patch
from tools.comfy_host import REPOSITORY
from tools.front_end import RUN
from tools.workflow import to_api, widget_names

WORKFLOWS = sorted((REPOSITORY / "workflows").glob("*.json"))
TITLE_BAR = 30  # above a node's position
OPEN = """async workflow => {
    await app.loadGraphData(workflow);
    const nodes = app.graph.nodes.map(n => ({id: n.id, size: [...n.size], least: [...n.computeSize()]}));
    return {prompt: (await app.graphToPrompt()).output, nodes};
}"""


@pytest.fixture(scope="module")
def info(server):
    return server.object_info()


def quick(graph, info):
    """The workflow with fewer steps and pictures, and the miniature in place of a checkpoint."""
    for node in graph["nodes"]:
        if node["type"] == "CheckpointLoaderSimple":
            node |= {"type": "FMN_LoadMiniature", "widgets_values": []}
        small = FEWER | ({"width": 128, "height": 128} if node["type"] in ("EmptyLatentImage", "FMN_Compare") else {})
        names = widget_names(info[node["type"]]) if node["type"] in info else []
        values = node.get("widgets_values", [])
        node["widgets_values"] = [small.get(name, value) for name, value in zip(names, values, strict=False)] or values
    return graph


VALUES = "() => Object.fromEntries(app.graph.serialize().nodes.map(n => [n.id, n.widgets_values ?? []]))"


def check_prompt(graph, opened, info):
    """The front end makes of a graph what `to_api` makes of it, and shows every node as large as it was saved."""
    wanted = to_api(graph, info)
    assert set(opened["prompt"]) == set(wanted)
    for name, node in wanted.items():
        assert opened["prompt"][name]["class_type"] == node["class_type"]
        # The front end adds widgets of its own to some stock nodes, such as the text of a preview.
        known = {i for group in info[node["class_type"]]["input"].values() for i in group}
        made = {i: value for i, value in opened["prompt"][name]["inputs"].items() if i in known}
        assert made == node["inputs"], node["_meta"]["title"]
    for shown, saved in zip(opened["nodes"], graph["nodes"], strict=True):
        assert shown["size"] == saved["size"], saved["type"]
        assert all(s >= least for s, least in zip(shown["size"], shown["least"])), saved["type"]


def check_saving(page, graph):
    """The panels add no value of their own to a saved workflow, and every widget comes back as it was."""
    first = page.evaluate(VALUES)
    page.evaluate("() => app.loadGraphData(app.graph.serialize())")
    assert page.evaluate(VALUES) == first
    for node in graph["nodes"]:
        if node["type"].startswith("FMN_"):
            assert first[str(node["id"])] == node.get("widgets_values", []), node["type"]


BOXES = "() => app.graph.nodes.map(n => [n.pos[0], n.pos[1], n.pos[0] + n.size[0], n.pos[1] + n.size[1], n.title])"


def check_no_overlap(page):
    """No node lies over another, whatever a run has added to it."""
    for a, b in itertools.combinations(page.evaluate(BOXES), 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] - TITLE_BAR or b[3] <= a[1] - TITLE_BAR
        assert apart, (a, b)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_opens_is_saved_and_runs(page, info, face, patches, embeddings, path, screenshot):
    graph = json.loads(path.read_text())
    check_prompt(graph, page.evaluate(OPEN, graph), info)
    check_saving(page, graph)
    prompt = page.evaluate(OPEN, quick(graph, info))["prompt"]
    assert page.evaluate(RUN) == ""
    assert sorted(p.stem for p in [*patches.iterdir(), *embeddings.glob("*.safetensors")]) == saved_files(prompt)
    page.wait_for_timeout(500)
    check_no_overlap(page)
    page.evaluate(
        "() => { app.canvas.ds.scale = 0.5; app.canvas.ds.offset = [500, 200]; app.canvas.setDirty(true, true); }"
    )
    page.wait_for_timeout(500)


def test_a_graph_of_version_0_3_0_opens_and_runs(page, info, patches):
    """Its Train Forget Patch solves in closed form, which Forget Concept does now."""
    graph = json.loads((REPOSITORY / "tests" / "graphs" / "version_0_3_0.json").read_text())
    prompt = page.evaluate(OPEN, graph)["prompt"]
    train = next(n["inputs"] for n in prompt.values() if n["class_type"] == "FMN_TrainForgetPatch")
    assert train["method"] == "closed form" and train["phrase"] == "zebra" and train["file_name"] == "forget_zebra"
    page.evaluate(OPEN, quick(graph, info))
    assert page.evaluate(RUN) == ""
    assert load_patch(patches / "forget_zebra.safetensors").settings["method"] == "closed form"

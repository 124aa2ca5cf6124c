"""A user's first graph: nodes from the search box, wires by mouse, one press of Run; and workflows that name what is not there."""

import json

import pytest
from browser.front_end import opened

from mini_sd.comfy_host import REPOSITORY

SLOT = """([type, input, slot]) => {
    const node = app.graph.nodes.find(n => n.type === type), [x, y] = node.getConnectionPos(input, slot);
    const at = app.canvas.canvas.getBoundingClientRect(), { scale, offset } = app.canvas.ds;
    return [at.x + (x + offset[0]) * scale, at.y + (y + offset[1]) * scale];
}"""


def search(page, x, y, words):
    """Double click, type, Enter: the node lands where the click was."""
    page.mouse.dblclick(x, y)
    box = page.locator(".comfy-vue-node-search-container input")
    box.wait_for(timeout=10_000)
    box.fill(words)
    page.wait_for_timeout(600)
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)


def wire(page, source, slot, target, number):
    start, end = page.evaluate(SLOT, [source, False, slot]), page.evaluate(SLOT, [target, True, number])
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=8)
    page.mouse.up()
    page.wait_for_timeout(200)


def test_a_graph_is_built_by_hand_and_run(page, server, patches, screenshot):
    page.evaluate("() => { app.graph.clear(); app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0]; }")
    search(page, 150, 300, "Load Miniature SD")
    search(page, 620, 180, "Train Forget Patch")
    types = page.evaluate("() => app.graph.nodes.map(n => n.type)")
    assert types == ["FMN_LoadMiniature", "FMN_TrainForgetPatch"]
    wire(page, "FMN_LoadMiniature", 0, "FMN_TrainForgetPatch", 0)
    wire(page, "FMN_LoadMiniature", 1, "FMN_TrainForgetPatch", 1)
    assert page.evaluate("() => app.graph.links.size ?? Object.keys(app.graph.links).length") == 2
    screenshot(" wired")
    page.get_by_test_id("queue-button").first.click()
    page.wait_for_function("() => document.body.innerText.includes('completed')", timeout=60_000)
    assert [p.name for p in patches.iterdir()] == ["forget_zebra.safetensors"]


MISSING = {
    "a patch that is not there": ("merge_and_gate", "FMN_MergeForgetPatches", "patches", "nobody_has_this"),
    "a checkpoint that is not there": ("forget_sd15", None, None, None),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_shared_workflow_that_names_what_is_missing_says_so(page, case, screenshot):
    name, kind, widget, value = MISSING[case]
    graph = json.loads((REPOSITORY / "workflows" / f"{name}.json").read_text())
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    if kind:
        page.evaluate(
            "([kind, name, value]) => { app.graph.nodes.find(n => n.type === kind).widgets.find(w => w.name === name).value = value; }",
            [kind, widget, value],
        )
    page.evaluate("() => { app.queuePrompt(0); }")
    words = "Expected" if kind else "not in"
    page.wait_for_function(f"() => document.body.innerText.includes('{words}')", timeout=60_000)
    text = page.evaluate("() => document.body.innerText")
    assert "Traceback" not in text.split("Show report")[0] or kind is None


def test_a_node_of_a_later_version_is_named_and_the_rest_opens(page, server):
    graph = json.loads((REPOSITORY / "workflows" / "forget_a_concept.json").read_text())
    graph["nodes"][1]["type"] = "FMN_FromTheFuture"
    page.evaluate("graph => { app.loadGraphData(graph); }", graph)
    page.wait_for_function("() => document.body.innerText.includes('FMN_FromTheFuture')", timeout=20_000)
    opened(page, server)

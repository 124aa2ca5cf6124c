"""A user's first graph: nodes from the search box, wires by mouse, one press of Run; and workflows that name what is not there."""

import contextlib
import json

import pytest
from playwright.sync_api import TimeoutError

from tools.comfy_host import REPOSITORY

SLOT = """([type, input, slot]) => {
    const node = app.graph.nodes.find(n => n.type === type), [x, y] = node.getConnectionPos(input, slot);
    const at = app.canvas.canvas.getBoundingClientRect(), { scale, offset } = app.canvas.ds;
    return [at.x + (x + offset[0]) * scale, at.y + (y + offset[1]) * scale];
}"""


# The search box of older front ends, and that of newer ones, whose node follows the cursor until a click.
SEARCH_BOX = ".comfy-vue-node-search-container input, input[aria-controls=results-list]"
SEARCH_RESULT, FOLLOWING_RESULT = ".p-autocomplete-option", "[data-testid=result-item]"


def search_box(page, x, y):
    """Opens the box by a double click."""
    box = page.locator(SEARCH_BOX)
    for _ in range(6):
        # Two clicks are a double click only where the busy page hears them soon after one another.
        page.mouse.dblclick(x, y)
        with contextlib.suppress(TimeoutError):
            box.wait_for(timeout=5_000)
            break
    return box


def search(page, x, y, words):
    """Double click, type, Enter: the node lands where the click was."""
    box = search_box(page, x, y)
    nodes = page.evaluate("() => app.graph.nodes.length")
    box.fill(words)
    page.locator(f"{SEARCH_RESULT}, {FOLLOWING_RESULT}", has_text=words).first.wait_for()
    follows_cursor = page.locator(FOLLOWING_RESULT).count() > 0
    page.keyboard.press("Enter")
    page.wait_for_function("n => app.graph.nodes.length === n + 1", arg=nodes)
    box.wait_for(state="hidden")
    if follows_cursor:
        page.mouse.click(x, y)
    page.wait_for_timeout(500)


def wire(page, source, slot, target, number):
    start, end = page.evaluate(SLOT, [source, False, slot]), page.evaluate(SLOT, [target, True, number])
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=8)
    page.mouse.up()
    page.wait_for_timeout(200)


# JavaScript: which tokenizer the server splits the phrase of the Forget Concept with.
TOKENIZER = """async () => {
    const { ask, runOf } = await import('/extensions/comfyui-forget-me-not/panel.js');
    const node = app.graph.nodes.find(n => n.type === 'FMN_ForgetConcept');
    return (await ask('tokens', { ...runOf(node), phrase: 'zebra' })).tokenizer;
}"""


def test_a_graph_is_built_by_hand_and_run(page, server, patches, screenshot):
    page.evaluate("() => { app.graph.clear(); app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0]; }")
    search(page, 150, 300, "Load Miniature SD")
    search(page, 620, 180, "Forget Concept")
    types = page.evaluate("() => app.graph.nodes.map(n => n.type)")
    assert types == ["FMN_LoadMiniature", "FMN_ForgetConcept"]
    wire(page, "FMN_LoadMiniature", 0, "FMN_ForgetConcept", 0)
    wire(page, "FMN_LoadMiniature", 1, "FMN_ForgetConcept", 1)
    assert page.evaluate("() => app.graph.links.size ?? Object.keys(app.graph.links).length") == 2
    screenshot(" wired")
    page.get_by_test_id("queue-button").first.click()
    # A machine that does something else besides takes a minute and more.
    for _ in range(300):
        if list(patches.glob("*.safetensors")):
            break
        page.wait_for_timeout(500)
    assert [p.name for p in patches.iterdir()] == ["forget_zebra.safetensors"]
    assert page.evaluate(TOKENIZER) == "connected"


MISSING = {
    "a patch": ("12 Merge patches behind a gate", "FMN_MergeForgetPatches", "nobody_has_this"),
    "a checkpoint": (
        "02 Forget a concept in Stable Diffusion",
        "CheckpointLoaderSimple",
        "v1-5-pruned-emaonly-fp16.safetensors",
    ),
    "an image": ("03 Forget a person by the face", "LoadImage", "nobody_has_this.png"),
}
NAMED = """([kind, value]) => {
    const node = app.graph.nodes.find(n => n.type === kind);
    node.widgets.find(w => ['patches', 'ckpt_name', 'image'].includes(w.name)).value = value;
}"""
ERRORS = """async () => {
    const { api } = await import('/scripts/api.js');
    const failed = new Promise(resolve => api.addEventListener('execution_error', e => resolve(e.detail.exception_message)));
    const { output, workflow } = await app.graphToPrompt();
    try { await api.queuePrompt(0, { output, workflow }); } catch (error) { return JSON.stringify(error.response); }
    return await failed;
}"""


@pytest.mark.parametrize("case", MISSING)
def test_a_shared_workflow_that_names_what_is_missing_says_so(page, case):
    name, kind, value = MISSING[case]
    graph = json.loads((REPOSITORY / "workflows" / f"{name}.json").read_text())
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    page.evaluate(NAMED, [kind, value])
    said = page.evaluate(ERRORS)
    assert value in said and "Traceback" not in said


def test_a_node_of_a_later_version_is_named_and_the_rest_opens(page):
    graph = json.loads((REPOSITORY / "workflows" / "01 Forget a concept.json").read_text())
    next(n for n in graph["nodes"] if n["type"] == "FMN_Compare")["type"] = "FMN_FromTheFuture"
    assert "FMN_FromTheFuture" not in page.evaluate("() => document.body.innerText")
    page.evaluate("graph => { app.loadGraphData(graph); }", graph)
    page.wait_for_function("() => document.body.innerText.includes('FMN_FromTheFuture')")
    assert page.evaluate("() => app.graph.nodes.map(n => n.type)") == [n["type"] for n in graph["nodes"]]

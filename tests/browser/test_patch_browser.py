"""The list of patches in the real page: what it says of a patch, which are grey, and what is new."""

import base64
import io

from browser.front_end import BROWSE, VUE, texts
from PIL import Image
from prompts import apply, train
from safetensors.torch import save_file

from tools import hostile_files

COMBO = """id => {
    const node = app.graph.getNodeById(id), widget = node.widgets.find(w => w.name === 'patch_file');
    const at = app.canvas.canvas.getBoundingClientRect(), { scale, offset } = app.canvas.ds;
    return [at.x + (node.pos[0] + node.size[0] / 2 + offset[0]) * scale, at.y + (node.pos[1] + widget.last_y + 10 + offset[1]) * scale];
}"""


@VUE
def test_a_patch_is_chosen_by_what_it_says(page, run, patches, graph, screenshot, vue):
    run(train(file_name="zebra", seed=10 + int(vue)))
    graph.use(vue)
    node = graph.add("FMN_ApplyForgetPatch")
    page.evaluate(BROWSE, node)
    page.wait_for_selector(".fmn-card")
    assert "forgets: zebra" in texts(page, ".fmn-card")[0]
    screenshot(" browser")
    page.keyboard.type("no such patch")
    assert page.locator(".fmn-card").count() == 0
    page.keyboard.press("Escape")
    assert page.locator(".fmn-dialog").count() == 0 and page.evaluate("() => app.graph.nodes.length") == 1
    page.evaluate(BROWSE, node)
    page.wait_for_selector(".fmn-card")
    page.fill(".fmn-dialog input", "ZEBRA")
    page.locator(".fmn-card").first.click()
    value = page.evaluate("id => app.graph.getNodeById(id).widgets.find(w => w.name === 'patch_file').value", node)
    assert value == "forget_me_not/zebra.safetensors" and page.locator(".fmn-dialog").count() == 0


def test_a_patch_for_another_base_is_grey_and_says_why(page, run, patches, graph, screenshot):
    """The server knows the base of a node's MODEL once the node has run."""
    prompt = train(file_name="zebra", seed=20) | apply(name="77", forget_patch=["train", 1]) | shown("77")
    run(prompt, workflow={"id": page.evaluate("() => app.graph.id")})
    other = hostile_files.good_patch()
    save_file(other.state_dict(), patches / "other.safetensors", other.metadata())
    graph.use(False)
    page.evaluate("() => { const n = LiteGraph.createNode('FMN_ApplyForgetPatch'); n.id = 77; app.graph.add(n); }")
    page.evaluate(BROWSE, 77)
    page.wait_for_selector(".fmn-card.other-base")
    assert page.locator(".fmn-card").count() == 2 and page.locator(".fmn-card.other-base").count() == 1
    assert "another base: " in texts(page, ".fmn-card.other-base")[0]
    page.keyboard.press("Escape")
    # The node with this number of another workflow has not run.
    page.evaluate("() => { app.graph.id = crypto.randomUUID(); }")
    page.evaluate(BROWSE, 77)
    page.wait_for_selector(".fmn-card")
    assert page.locator(".fmn-card").count() == 2 and page.locator(".fmn-card.other-base").count() == 0


def thumbnail():
    """A patch's preview as its file holds it."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "orange").save(file, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def test_a_patch_that_does_not_fit_is_grey_before_anything_ran(page, server, patches, graph, screenshot):
    """The base is that of the file in the loader above the node, through what does not change it."""
    other = hostile_files.good_patch()
    other.about = {"preview": thumbnail()}
    save_file(other.state_dict(), patches / "other.safetensors", other.metadata())
    graph.use(False)
    mini, lora = graph.add("FMN_LoadMiniature"), graph.add("LoraLoaderModelOnly", 0, 300)
    node, alone = graph.add("FMN_ApplyForgetPatch", 400), graph.add("FMN_ApplyForgetPatch", 400, 300)
    graph.link(mini, 0, lora, "model")
    graph.link(lora, 0, node, "model")
    for number, grey in ((node, 1), (alone, 0)):
        page.evaluate(BROWSE, number)
        page.wait_for_selector(".fmn-card")
        assert page.locator(".fmn-card.other-base").count() == grey
        page.wait_for_function("() => document.querySelector('.fmn-card img').naturalWidth === 64")
        screenshot(f" {grey} grey")
        page.keyboard.press("Escape")
    merge = graph.add("ModelMergeSimple", 0, 500)
    for name in ("model1", "model2"):
        graph.link(mini, 0, merge, name)
    graph.link(merge, 0, node, "model")
    page.evaluate(BROWSE, node)
    page.wait_for_selector(".fmn-card")
    assert page.locator(".fmn-card.other-base").count() == 0


VALUES = "id => app.graph.getNodeById(id).widgets.find(w => w.name === 'patch_file').options.values"


@VUE
def test_a_patch_that_was_just_saved_is_in_the_lists(page, run, patches, graph, screenshot, vue):
    graph.use(vue)
    name, node = f"forget_me_not/new_{vue}.safetensors", graph.add("FMN_ApplyForgetPatch")
    assert name not in page.evaluate(VALUES, node)
    run(train(file_name=f"new_{vue}", seed=40 + int(vue)))
    page.wait_for_function(f"([id, name]) => ({VALUES})(id).includes(name)", arg=[node, name])
    assert name in page.evaluate(VALUES, graph.add("FMN_ForgetPatchInfo", 400))
    if vue:
        page.locator(f"[data-node-id='{node}'] :text('(from the')").first.click(timeout=20_000)
    else:
        page.mouse.click(*page.evaluate(COMBO, node))
    page.wait_for_selector(f"text=new_{vue}", timeout=20_000)
    screenshot(" list")


def shown(node):
    return {"said": {"class_type": "PreviewAny", "inputs": {"source": [node, 1]}}}


def test_what_a_stranger_wrote_into_a_patch_is_never_run(page, patches, graph, screenshot):
    patch = hostile_files.good_patch()
    html = "<img src=x onerror='window.hacked = true'><script>window.hacked = true</script>"
    patch.about = {"title": html, "author": html, "preview": "data:text/html," + html}
    patch.concepts[0]["phrases"] = [html]
    save_file(patch.state_dict(), patches / "hostile.safetensors", patch.metadata())
    graph.use(False)
    node = graph.add("FMN_ApplyForgetPatch")
    page.evaluate(BROWSE, node)
    page.wait_for_selector(".fmn-card")
    page.wait_for_timeout(500)
    assert "<img src=x" in texts(page, ".fmn-card")[0]
    assert page.evaluate("() => window.hacked === undefined && document.querySelectorAll('.fmn-card img').length === 0")

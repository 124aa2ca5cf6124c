"""Loading the front end of a server, and graphs in it."""

import pytest

from tools.front_end import READY

VUE = pytest.mark.parametrize("vue", [False, True], ids=["classic", "nodes 2.0"])
ADD = """([type, x, y]) => {
    const node = LiteGraph.createNode(type); node.pos = [x, y]; app.graph.add(node); app.canvas.setDirty(true, true); return node.id;
}"""
VUE_NODES = """async on => {
    try { await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on); return true; } catch { return false; }
}"""
SET = """([id, name, value]) => {
    const widget = app.graph.getNodeById(id).widgets.find(w => w.name === name); widget.value = value; widget.callback?.(value);
}"""
LINK = "([from, slot, to, name]) => { const a = app.graph.getNodeById(from), b = app.graph.getNodeById(to); a.connect(slot, b, name); }"
# Presses a node's button that opens the list of patches.
BROWSE = "id => { app.graph.getNodeById(id).widgets.find(w => w.name === 'browse patches').callback(); }"


def opened(page, server):
    """Loads, or reloads, the page."""
    page.goto(f"http://{server.url}/")
    page.wait_for_function(READY)
    page.wait_for_timeout(1000)
    return page


def texts(page, selector):
    """What the elements of a selector show."""
    return page.locator(selector).all_inner_texts()


# JavaScript: a page as it was when it was loaded, in the classic canvas.
EMPTY = """async () => {
    for (const [name, value] of [['Comfy.VueNodes.Enabled', false], ['Comfy.ColorPalette', 'dark']])
        try { await app.extensionManager.setting.set(name, value); } catch {}
    document.querySelectorAll('.litecontextmenu').forEach(menu => menu.remove());
    // Nodes 2.0 of newer hosts shows what it knew of a number that is used again.
    const last = app.graph.last_node_id;
    app.graph.clear(); app.graph.last_node_id = last + 1; app.nodeOutputs = {}; app.nodePreviewImages = {};
    app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0]; app.canvas.setDirty(true, true);
}"""


class Pages:
    """A page of a server's front end, which is loaded once and emptied before every use."""

    def __init__(self, browser, server):
        self.browser, self.server, self.context, self.page = browser, server, None, None

    def empty(self):
        """The page with an empty graph; loaded if there is none, past the dialog of a first visit."""
        if self.context is None:
            self.server.post("/settings/Comfy.TutorialCompleted", True)
            self.server.post("/settings/Comfy.VueNodes.Enabled", False)
            self.context = self.browser.new_context(viewport={"width": 1600, "height": 1000})
            self.page = self.context.new_page()
            self.page.set_default_timeout(300_000)
            opened(self.page, self.server)
        self.page.keyboard.press("Escape")
        self.page.mouse.move(5, 500)
        self.page.evaluate(EMPTY)
        return self.page

    def close(self):
        """Closes the page; the next use loads another."""
        if self.context is not None:
            self.context.close()
            self.context = self.page = None


class Graph:
    """Adds, sets and links nodes on an empty canvas of the page."""

    def __init__(self, page):
        self.page = page

    def use(self, vue):
        known = self.page.evaluate(VUE_NODES, vue)
        if vue and not known:
            pytest.skip("this front end has no Nodes 2.0")
        self.page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [60, 80]; }")
        self.page.wait_for_timeout(500)

    def add(self, kind, x=0, y=0):
        return self.page.evaluate(ADD, [kind, x, y])

    def set(self, node, name, value):
        self.page.evaluate(SET, [node, name, value])

    def link(self, source, slot, target, name):
        self.page.evaluate(LINK, [source, slot, target, name])

    def train(self, **values):
        mini, node = self.add("FMN_LoadMiniature"), self.add("FMN_TrainForgetPatch", 320)
        self.link(mini, 0, node, "model")
        self.link(mini, 1, node, "clip")
        for name, value in values.items():
            self.set(node, name, value)
        return node

    def queue(self):
        self.page.evaluate("() => { app.queuePrompt(0); }")

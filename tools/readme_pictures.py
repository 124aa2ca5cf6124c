"""Takes the README's screenshots in the real page: python -m tools.readme_pictures

Writes docs/images: the starter after a run, its main node, a training while it runs, and the patch browser. Needs Chromium on the PATH, and
playwright.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tools.comfy_host import REPOSITORY
from tools.comfy_server import ComfyServer
from tools.workflows.build import READY, RUN

IMAGES = REPOSITORY / "docs" / "images"
TITLE, MARGIN = 30, 8
# JavaScript: hides what the page shows beside the graph, and fits the graph's nodes into the window.
BARE = """scale => {
    const style = document.createElement('style');
    style.textContent = '.side-tool-bar-container, .comfyui-body-top, .comfyui-body-left, .workflow-tabs-container, .graph-canvas-menu, '
        + '.p-buttongroup, .minimap-main-container, .actionbar-container, .p-toast { display: none !important; }';
    document.head.append(style);
    const nodes = app.graph.nodes, left = Math.min(...nodes.map(n => n.pos[0])), top = Math.min(...nodes.map(n => n.pos[1]));
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [60 / scale - left, 90 / scale - top];
    app.canvas.show_info = false;
    app.canvas.setDirty(true, true);
}"""
BOX = """type => {
    const node = app.graph.nodes.find(n => n.type === type), s = app.canvas.ds.scale, o = app.canvas.ds.offset;
    const at = app.canvas.canvas.getBoundingClientRect();
    return [at.x + (node.pos[0] + o[0]) * s, at.y + (node.pos[1] + o[1]) * s, node.size[0] * s, node.size[1] * s, s];
}"""
BROWSE = "() => app.graph.nodes.find(n => n.type === 'FMN_ApplyForgetPatch').widgets.find(w => w.name === 'browse patches').callback()"
STEPS = "() => / step [4-9]\\d /.test(document.querySelector('.fmn-status')?.textContent ?? '')"


def shot(page: Page) -> Image.Image:
    """What the page shows."""
    page.wait_for_timeout(1500)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def save(picture: Image.Image, name: str) -> None:
    """Saves a picture with few colours, which is enough for text on plain ground and a fifth of the size."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    picture.quantize(128, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)


def node_of(page: Page, node_type: str) -> Image.Image:
    """The first node of a type, with its title."""
    x, y, width, height, scale = page.evaluate(BOX, node_type)
    box = (x - MARGIN, y - TITLE * scale - MARGIN, x + width + MARGIN, y + height + MARGIN)
    return shot(page).crop(tuple(round(v) for v in box))


def opened(page: Page, name: str, scale: float) -> None:
    """Opens a shipped workflow."""
    graph = json.loads((REPOSITORY / "workflows" / f"{name}.json").read_text())
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    page.wait_for_timeout(1000)
    page.evaluate(BARE, scale)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder)) as server, sync_playwright() as play:
        server.post("/settings/Comfy.TutorialCompleted", True)
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 860})
        page.set_default_timeout(900_000)
        page.goto(f"http://{server.url}/")
        page.wait_for_function(READY)
        page.wait_for_timeout(2000)
        opened(page, "01 Forget a concept", 0.75)
        page.evaluate(RUN)
        page.evaluate(BARE, 0.75)
        save(shot(page), "starter")
        page.evaluate(BARE, 1.0)
        page.evaluate("() => { app.canvas.ds.offset = [-300, 60]; app.canvas.setDirty(true, true); }")
        page.set_viewport_size({"width": 1400, "height": 1200})
        save(node_of(page, "FMN_ForgetConcept"), "forget_concept")
        page.evaluate("() => { app.graph.clear(); app.graph.add(LiteGraph.createNode('FMN_ApplyForgetPatch')); }")
        page.evaluate(BROWSE)
        page.wait_for_selector(".fmn-card")
        save(shot(page).crop((200, 60, 1200, 700)), "patch_browser")
        page.keyboard.press("Escape")
        opened(page, "09 Train by attention inside a mask", 0.75)
        page.evaluate("() => { app.queuePrompt(0); }")
        page.wait_for_function(STEPS)
        save(node_of(page, "FMN_TrainForgetPatch"), "monitor")
        browser.close()


if __name__ == "__main__":
    main()

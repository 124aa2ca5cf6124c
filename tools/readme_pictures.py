"""Takes the README's screenshots in the real page: python -m tools.readme_pictures

Writes docs/images: the starter after a run, its main node, a training while it runs, and the patch browser. Needs Chromium on the PATH, and
playwright.
"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tools.comfy_host import REPOSITORY
from tools.comfy_server import ComfyServer
from tools.front_end import RUN, page_of

IMAGES = REPOSITORY / "docs" / "images"
TITLE, MARGIN = 30, 8
# Pixels at the top of the page in which the host shows its own things.
TOP = 105
WIDE, HIGH = {"width": 1720, "height": 1000}, {"width": 1720, "height": 1500}
# JavaScript: hides what the page shows beside the graph, and fits the graph's nodes into the window.
BARE = """scale => {
    const style = document.createElement('style');
    style.textContent = '.side-tool-bar-container, .comfyui-body-top, .comfyui-body-left, .workflow-tabs-container, .graph-canvas-menu, '
        + '.p-buttongroup, .minimap-main-container, .actionbar-container, .p-toast { display: none !important; }';
    document.head.append(style);
    const nodes = app.graph.nodes, left = Math.min(...nodes.map(n => n.pos[0])), top = Math.min(...nodes.map(n => n.pos[1]));
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [40 / scale - left, 170 / scale - top];
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
    picture.quantize(255, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)


def below_top(picture: Image.Image) -> Image.Image:
    """A picture of the page without what the host shows at its top."""
    return picture.crop((0, TOP, *picture.size))


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
    with (
        tempfile.TemporaryDirectory() as folder,
        ComfyServer(Path(folder)) as server,
        page_of(server, 1720, 1000) as page,
    ):
        opened(page, "01 Forget a concept", 0.75)
        page.evaluate(RUN)
        page.evaluate(BARE, 0.75)
        save(below_top(shot(page)), "starter")
        page.set_viewport_size(HIGH)
        page.evaluate(BARE, 1.0)
        save(node_of(page, "FMN_ForgetConcept"), "forget_concept")
        page.set_viewport_size(WIDE)
        page.evaluate("() => { app.graph.clear(); app.graph.add(LiteGraph.createNode('FMN_ApplyForgetPatch')); }")
        page.evaluate(BROWSE)
        page.wait_for_selector(".fmn-card")
        page.wait_for_timeout(1000)
        IMAGES.mkdir(parents=True, exist_ok=True)
        page.locator(".fmn-dialog").screenshot(path=str(IMAGES / "patch_browser.png"))
        page.keyboard.press("Escape")
        page.set_viewport_size(HIGH)
        opened(page, "10 Train by visual denoising", 0.75)
        page.evaluate("() => { app.queuePrompt(0); }")
        page.wait_for_function(STEPS)
        save(node_of(page, "FMN_TrainForgetPatch"), "monitor")


if __name__ == "__main__":
    main()

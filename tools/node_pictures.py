"""Takes a picture of every node in the browser, for the help pages: python -m tools.node_pictures

Nodes of the shipped workflows are shown as they are after a run on the miniature, with what they report or draw; the others with
their default values. Writes js/docs/NODE_ID.jpg. Needs Chromium on the PATH and the Python package playwright.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page
from skimage import data

from tools.comfy_host import REPOSITORY
from tools.comfy_server import ComfyServer
from tools.front_end import RUN, load, page_of
from tools.workflows.build import on_miniature, put
from tools.workflows.shipped import shipped
from tools.workflows.spec import Node, Workflow, forget, miniature

DOCS = REPOSITORY / "js" / "docs"
# Pixels: the title bar, which is above the position of a node, the border of a picture, and from one node to the next.
TITLE, MARGIN, APART = 30, 8, 1500
# As high as the longest node, and so wide that the host shows its messages beside it.
VIEW = (1600, 1700)
# JavaScript: shows a node alone, and returns its position and size on the page.
SHOW = """id => {
    const node = app.graph.getNodeById(id);
    app.canvas.ds.scale = 1; app.canvas.ds.offset = [200 - node.pos[0], 160 - node.pos[1]];
    app.canvas.deselectAll?.(); app.canvas.setDirty(true, true);
    const at = app.canvas.canvas.getBoundingClientRect();
    return [at.x + 200, at.y + 160, ...node.size];
}"""


def applying() -> Workflow:
    """Nodes that no shipped workflow has, and that say something after a run."""
    wires: dict[str, tuple[str, int]] = {"forget_patch": ("forget", 1)}
    apply = Node("apply", "FMN_ApplyForgetPatch", inputs={"model": ("model", 0), **wires}, width=360)
    save = Node("save", "FMN_SaveForgetPatch", inputs=wires, width=360)
    return Workflow("apply", "", (("", (miniature(), forget("zebra"), apply, save)),), "")


def picture(page: Page, node: int) -> Image.Image:
    """A picture of a node of the page's graph."""
    x, y, width, height = page.evaluate(SHOW, node)
    page.wait_for_timeout(900)
    clip: Any = {"x": x - MARGIN, "y": y - TITLE - MARGIN, "width": width + 2 * MARGIN, "height": height + TITLE + 2 * MARGIN}  # fmt: skip
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def pictures_after_a_run(page: Page, workflow: Workflow, wanted: set[str]) -> dict[str, Image.Image]:
    """Pictures of those nodes of a workflow whose types are wanted, by type, once it has run on the miniature."""
    nodes = [on_miniature(node, workflow.on_miniature) for node in workflow.nodes()]
    boxes: dict[str, list[float]] = {n.key: [k * APART, 0, max(360, n.width), 0] for k, n in enumerate(nodes)}
    ids = put(page, nodes, boxes)
    if error := page.evaluate(RUN):
        raise RuntimeError(f"{workflow.name}: {error}")
    page.wait_for_timeout(1500)
    first = {node.type: ids[node.key] for node in reversed(nodes) if node.type in wanted}
    return {node_type: picture(page, node) for node_type, node in first.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder)) as server, page_of(server, *VIEW) as page:
        Image.fromarray(data.astronaut()).resize((160, 160)).save(Path(folder) / "input" / "example.png")
        wanted = {name for name in server.object_info() if name.startswith("FMN_")}
        for workflow in [*shipped(), applying()]:
            if wanted & {node.type for node in workflow.nodes()}:
                load(page, server)
                for node_type, image in pictures_after_a_run(page, workflow, wanted).items():
                    image.save(DOCS / f"{node_type}.jpg", quality=85, optimize=True)
                    wanted.discard(node_type)
        for node_type in wanted:
            [node] = put(page, [Node("alone", node_type)], {"alone": [0, 0, 360, 0]}).values()
            picture(page, node).save(DOCS / f"{node_type}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()

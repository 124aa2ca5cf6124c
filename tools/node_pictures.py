"""Takes a picture of every node in the browser, for the help pages: python -m tools.node_pictures

Writes js/docs/NODE_ID.jpg. Needs Chromium on the PATH and the Python package playwright.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from tools.comfy_host import REPOSITORY
from tools.comfy_server import ComfyServer
from tools.front_end import page_of

DOCS = REPOSITORY / "js" / "docs"
# Pixels: the title bar, which is above the position of a node, and the border of a picture.
TITLE, MARGIN = 30, 8
# As high as the longest node.
VIEW = (900, 1400)
# JavaScript: shows a single node of a type, and returns its position and size on the page.
SHOW_NODE = """type => {
    app.graph.clear(); app.canvas.ds.scale = 1; app.canvas.ds.offset = [200, 160];
    const node = LiteGraph.createNode(type); node.pos = [0, 0]; app.graph.add(node);
    node.setSize([360, node.computeSize()[1]]); app.canvas.deselectAll?.(); app.canvas.setDirty(true, true);
    const at = app.canvas.canvas.getBoundingClientRect();
    return [at.x + 200, at.y + 160, ...node.size];
}"""


def picture(page: Page, node_type: str) -> Image.Image:
    """A picture of a node of this type with its default values."""
    x, y, width, height = page.evaluate(SHOW_NODE, node_type)
    page.wait_for_timeout(900)
    clip = {
        "x": x - MARGIN,
        "y": y - TITLE - MARGIN,
        "width": width + 2 * MARGIN,
        "height": height + TITLE + 2 * MARGIN,
    }
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder)) as server, page_of(server, *VIEW) as page:
        for node_type in sorted(name for name in server.object_info() if name.startswith("FMN_")):
            picture(page, node_type).save(DOCS / f"{node_type}.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()

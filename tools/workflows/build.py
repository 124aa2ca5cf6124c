"""Writes the shipped workflows and their thumbnails: python -m tools.workflows.build [--only TEXT]

Every workflow is put together in the real front end and run on the miniature. Nodes are laid out by the sizes that they have after the
run, so that none grows over another, and the thumbnail shows what the run drew. Needs Chromium on the PATH, and playwright.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page

from tools.comfy_host import REPOSITORY
from tools.comfy_server import ComfyServer
from tools.front_end import RUN, load, page_of
from tools.workflows.shipped import notes, shipped
from tools.workflows.spec import Node, Workflow, miniature

WORKFLOWS = REPOSITORY / "workflows"
GAP, TITLE, NOTE_WIDTH, GROUP_MARGIN = 60, 40, 380, 30
VIEW = (1600, 1000)
# The zoom at which a workflow opens; text of 14 pixels is legible from about 0.6 on.
SCALE = 0.7
THUMBNAIL = 512
LOADER_HEIGHT = 320

PUT = """([nodes, positions]) => {
    app.graph.clear();
    const made = {};
    for (const spec of nodes) {
        const node = LiteGraph.createNode(spec.type);
        if (!node) throw new Error('no node type ' + spec.type);
        if (spec.title) node.title = spec.title;
        Object.assign(node.properties, spec.properties);
        app.graph.add(node);
        for (const [name, value] of Object.entries(spec.widgets)) {
            const widget = node.widgets.find(w => w.name === name);
            if (!widget) throw new Error(spec.type + ' has no widget ' + name);
            widget.value = value;
        }
        made[spec.key] = node;
    }
    for (const spec of nodes)
        for (const [name, [source, slot]] of Object.entries(spec.inputs)) {
            const place = made[spec.key].findInputSlot(name);
            if (place < 0 || !made[source].connect(slot, made[spec.key], place))
                throw new Error('cannot link ' + source + ' to ' + spec.key + '.' + name);
        }
    for (const spec of nodes) {
        const node = made[spec.key], box = positions[spec.key];
        node.pos = box ? [box[0], box[1]] : [0, 0];
        node.setSize(box ? [box[2], Math.max(box[3], node.computeSize()[1])] : [spec.width, node.computeSize()[1]]);
    }
    return Object.fromEntries(nodes.map(spec => [spec.key, made[spec.key].id]));
}"""
MOVE = "places => { for (const [id, x, y] of places) app.graph.getNodeById(id).pos = [x, y]; }"
GROUPS = """groups => {
    for (const [title, x, y, width, height] of groups) {
        const group = new LiteGraph.LGraphGroup(title);
        group.pos = [x, y]; group.size = [width, height];
        app.graph.add(group);
    }
}"""
VUE = "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
SIZES = "ids => ids.map(id => [...app.graph.getNodeById(id).size])"
OUTPUT = "id => app.nodeOutputs[id]"


def on_miniature(node: Node, texts: dict[str, str]) -> Node:
    """A node as it runs on the miniature: its loader, words that it knows, and pictures of its size."""
    if node.type == "CheckpointLoaderSimple":
        return miniature()
    widgets = {name: texts.get(value, value) for name, value in node.widgets.items()}
    if node.type == "FMN_Compare":
        widgets |= {"width": 0, "height": 0, "cfg": 3.0}
    return replace(node, widgets=widgets)


def put(page: Page, nodes: list[Node], positions: dict[str, list[float]]) -> dict[str, int]:
    """Puts nodes into the page's graph, and returns their ids by key."""
    specs = [
        {
            "key": n.key, "type": n.type, "title": n.title, "widgets": n.widgets, "width": n.width, "properties": n.properties,
            "inputs": {k: list(v) for k, v in n.inputs.items()},
        }
        for n in nodes
    ]  # fmt: skip
    return page.evaluate(PUT, [specs, positions])


def measured(page: Page, ids: dict[str, int]) -> dict[str, list[float]]:
    """Size of every node after a run, the larger of both canvases."""
    sizes = []
    for vue in (False, True):
        page.evaluate(VUE, vue)
        page.wait_for_timeout(2000)
        sizes.append(page.evaluate(SIZES, list(ids.values())))
    page.evaluate(VUE, False)
    page.wait_for_timeout(1500)
    return {key: [round(max(sides)) for sides in zip(*both)] for key, *both in zip(ids, *sizes)}


def note_of(workflow: Workflow) -> Node:
    """The note beside a workflow. Its properties hold the text in both languages; js/notes.js shows that of the page."""
    return Node("note", "MarkdownNote", "What to look at", {"": workflow.note}, {}, NOTE_WIDTH, notes(workflow))


def layout(
    workflow: Workflow, sizes: dict[str, list[float]]
) -> tuple[dict[str, list[float]], list[tuple[str, float, float, float, float]]]:
    """Position and size of every node, in columns, and the groups around the columns."""
    positions, groups, x = {}, [], 0.0
    for title, column in workflow.columns:
        y, width = 0.0, max(sizes[node.key][0] for node in column)
        for node in column:
            positions[node.key] = [x, y, *sizes[node.key]]
            y += sizes[node.key][1] + TITLE + GAP / 3
        top = -TITLE - GROUP_MARGIN
        groups.append((title, x - GROUP_MARGIN, top - TITLE, width + 2 * GROUP_MARGIN, y - top + TITLE))
        x += width + GAP + 2 * GROUP_MARGIN
    return positions, groups


def thumbnail(server: ComfyServer, output: dict[str, Any]) -> Image.Image:
    """Two pictures before on the left, the same after on the right; one below the other."""
    rows = list(zip(output["fmn_before"], output["fmn_after"]))
    chosen, side = (rows * 2)[:2], THUMBNAIL // 2
    sheet = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "white")
    for y, pair in enumerate(chosen):
        for x, entry in enumerate(pair):
            sheet.paste(server.image(entry).convert("RGB").resize((side, side)), (x * side, y * side))
    return sheet


def app_mode(workflow: Workflow, ids: dict[str, int]) -> dict[str, Any]:
    """What the host's app mode shows of a workflow; nothing where the workflow names nothing."""
    inputs = [[ids[key], widget] for key, widget in workflow.app_inputs]
    outputs = [ids[key] for key in workflow.app_outputs]
    return {"linearData": {"inputs": inputs, "outputs": outputs}} if inputs or outputs else {}


def build(page: Page, server: ComfyServer, workflow: Workflow) -> None:
    """Runs a workflow on the miniature, and writes its file and its thumbnail."""
    ids = put(page, [on_miniature(n, workflow.on_miniature) for n in workflow.nodes()], {})
    if error := page.evaluate(RUN):
        raise RuntimeError(f"{workflow.name}: {error}")
    sizes = measured(page, ids)
    loaders = {n.key for n in workflow.nodes() if n.type == "CheckpointLoaderSimple"}
    picture = thumbnail(server, page.evaluate(OUTPUT, ids[workflow.thumbnail]))
    # The loader that the miniature's stood for is higher on some hosts.
    sizes = {key: [size[0], max(size[1], LOADER_HEIGHT)] if key in loaders else size for key, size in sizes.items()}
    positions, groups = layout(workflow, sizes)
    note: list[float] = [-NOTE_WIDTH - GAP - GROUP_MARGIN, 0, NOTE_WIDTH, 420]
    positions["note"] = note
    # On a fresh page, because the front end would show the run's pictures in nodes of the same numbers.
    load(page, server)
    final = put(page, [replace(note_of(workflow), widgets={}), *workflow.nodes()], positions)
    # A node may now need more than it did.
    now = dict(zip(final, page.evaluate(SIZES, list(final.values()))))
    positions, groups = layout(workflow, {key: [round(side) for side in now[key]] for key in sizes})
    page.evaluate(MOVE, [[final[key], box[0], box[1]] for key, box in positions.items()])
    positions["note"] = note
    page.evaluate(
        "text => { const n = app.graph.nodes.find(n => n.type === 'MarkdownNote'); n.widgets[0].value = text; }",
        workflow.note,
    )
    page.evaluate(GROUPS, groups)
    graph = page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")
    left, top = positions["note"][0] - GAP, -3 * TITLE
    # Some hosts spread the nodes for Nodes 2.0, to the left of what is first in the classic canvas too.
    graph["extra"] = {"ds": {"scale": SCALE, "offset": [-left + 150, -top + 60]}} | app_mode(workflow, final)
    for key in ("id", "revision"):
        graph.pop(key, None)
    (WORKFLOWS / f"{workflow.name}.json").write_text(json.dumps(graph, indent=1, ensure_ascii=False) + "\n")
    picture.save(WORKFLOWS / f"{workflow.name}.jpg", quality=85, optimize=True)
    print(workflow.name, len(graph["nodes"]), "nodes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="workflows whose name contains one of these texts, joined by commas")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder)) as server, page_of(server, *VIEW) as page:
        from skimage import data

        # Larger pictures take the miniature minutes.
        Image.fromarray(data.astronaut()).resize((160, 160)).save(Path(folder) / "input" / "example.png")
        for workflow in shipped():
            if any(text in workflow.name for text in args.only.split(",")):
                load(page, server)
                build(page, server, workflow)


if __name__ == "__main__":
    main()

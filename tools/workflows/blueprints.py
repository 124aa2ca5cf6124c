"""Writes the subgraph blueprints: python -m tools.workflows.blueprints

Newer hosts list subgraphs/*.json among their nodes, each a node that holds a small graph. Every blueprint is put together in the real
front end, so that its inner nodes are saved as the page saves them. Needs Chromium on the PATH, and playwright.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tools.comfy_host import REPOSITORY
from tools.comfy_server import ComfyServer
from tools.front_end import page_of
from tools.workflows.build import put
from tools.workflows.spec import Node

SUBGRAPHS = REPOSITORY / "subgraphs"
SERIALIZED = "() => JSON.parse(JSON.stringify(app.graph.serialize()))"
# Numbers that the format gives to the ends of a subgraph.
INPUT_NODE, OUTPUT_NODE = -10, -20
GAP, WIDTH = 80, 400
# Ids that stay the same when a blueprint is written again.
NAMESPACE = uuid.UUID("7d1f3a52-6a1c-4d0b-9d53-5f0f3c1f5e10")


@dataclass(frozen=True)
class Blueprint:
    """A node that holds a small graph.

    Parameters
    ----------
    nodes
        Inner nodes from left to right, linked among themselves.
    inputs
        For each input of the outer node, its name and type, and the inner inputs (key, name) that it feeds.
    outputs
        For each output, its name and type, and key and number of an inner output.
    widgets
        Inner widgets (key, name) that the outer node shows.
    """

    name: str
    description: str
    nodes: tuple[Node, ...]
    inputs: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]
    outputs: tuple[tuple[str, str, tuple[str, int]], ...]
    widgets: tuple[tuple[str, str], ...]


def _compare(prompts: str, **inputs: tuple[str, int]) -> Node:
    return Node("compare", "FMN_Compare", widgets={"prompts": prompts}, inputs=inputs, width=WIDTH)


def forget_a_concept() -> Blueprint:
    return Blueprint(
        "Forget a concept",
        "Makes a model forget a concept, saves the patch, and draws the prompts before and after.",
        (
            Node("forget", "FMN_ForgetConcept", widgets={"forget": "zebra"}, width=WIDTH),
            _compare("a picture of a {phrase}\na picture of a horse", after=("forget", 0), forget_patch=("forget", 1)),
        ),
        (
            ("model", "MODEL", (("forget", "model"), ("compare", "before"))),
            ("clip", "CLIP", (("forget", "clip"), ("compare", "clip"))),
            ("vae", "VAE", (("compare", "vae"),)),
        ),
        (
            ("MODEL", "MODEL", ("forget", 0)),
            ("FORGET_PATCH", "FORGET_PATCH", ("forget", 1)),
            ("report", "STRING", ("forget", 2)),
            ("grid", "IMAGE", ("compare", 0)),
        ),
        (
            *(("forget", name) for name in ("forget", "kind", "draw_instead", "keep", "save_as")),
            *(("compare", name) for name in ("prompts", "width", "height", "cfg")),
        ),
    )


def before_and_after() -> Blueprint:
    return Blueprint(
        "Before and after a patch",
        "Draws the same prompts and seeds with a model as it is, and with a forget patch of the list or the one connected.",
        (
            Node("apply", "FMN_ApplyForgetPatch", width=WIDTH),
            _compare("a picture of a zebra\na picture of a horse", after=("apply", 0)),
        ),
        (
            ("model", "MODEL", (("apply", "model"), ("compare", "before"))),
            ("clip", "CLIP", (("compare", "clip"),)),
            ("vae", "VAE", (("compare", "vae"),)),
            ("forget_patch", "FORGET_PATCH", (("apply", "forget_patch"), ("compare", "forget_patch"))),
        ),
        (("grid", "IMAGE", ("compare", 0)), ("before", "IMAGE", ("compare", 1)), ("after", "IMAGE", ("compare", 2))),
        (
            *(("apply", name) for name in ("patch_file", "strength")),
            *(("compare", name) for name in ("prompts", "seed", "steps", "width", "height", "cfg")),
        ),
    )


def definition(blueprint: Blueprint, graph: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    """The subgraph of a blueprint, from the graph of its inner nodes as the page saves it."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    fields = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(fields, link)) for link in graph["links"]]
    last = graph["last_link_id"]

    def connect(*ends: Any) -> int:
        links.append(dict(zip(fields, (last + 1 + len(links), *ends))))
        return links[-1]["id"]

    inputs, outputs = [], []
    for slot, (name, kind, fed) in enumerate(blueprint.inputs):
        numbers = []
        for key, inner in fed:
            place = [i["name"] for i in nodes[ids[key]]["inputs"]].index(inner)
            numbers.append(connect(INPUT_NODE, slot, ids[key], place, kind))
            nodes[ids[key]]["inputs"][place]["link"] = numbers[-1]
        inputs.append(_end(blueprint, "input", name, kind, numbers))
    for slot, (name, kind, (key, number)) in enumerate(blueprint.outputs):
        link = connect(ids[key], number, OUTPUT_NODE, slot, kind)
        source = nodes[ids[key]]["outputs"][number]
        source["links"] = [*(source.get("links") or []), link]
        outputs.append(_end(blueprint, "output", name, kind, [link]))
    right = max(node["pos"][0] + node["size"][0] for node in graph["nodes"])
    state = {"lastGroupId": 0, "lastNodeId": max(nodes), "lastLinkId": last + len(links), "lastRerouteId": 0}
    return {
        "id": _id(blueprint, "subgraph"), "version": 1, "state": state, "revision": 0, "config": {}, "name": blueprint.name,
        "inputNode": {"id": INPUT_NODE, "bounding": [-220, 0, 120, 120]},
        "outputNode": {"id": OUTPUT_NODE, "bounding": [right + 100, 0, 120, 120]},
        "inputs": inputs, "outputs": outputs, "widgets": [], "nodes": graph["nodes"], "groups": [], "links": links,
        "extra": {}, "category": "Forget-Me-Not", "description": blueprint.description,
    }  # fmt: skip


def _end(blueprint: Blueprint, side: str, name: str, kind: str, links: list[int]) -> dict[str, Any]:
    return {"id": _id(blueprint, f"{side} {name}"), "name": name, "type": kind, "linkIds": links, "label": name}


def _id(blueprint: Blueprint, part: str) -> str:
    return str(uuid.uuid5(NAMESPACE, f"{blueprint.name}/{part}"))


def outer(blueprint: Blueprint, subgraph: dict[str, Any], ids: dict[str, int]) -> dict[str, Any]:
    """The file of a blueprint: a graph of one node, and the subgraph that it stands for."""
    number = max(ids.values()) + 1  # some hosts give other numbers to inner nodes that share one with an outer node
    node = {
        "id": number, "type": subgraph["id"], "pos": [0, 0], "size": [WIDTH, 600], "flags": {}, "order": 0, "mode": 0,
        "inputs": [{"label": i["name"], "name": i["name"], "type": i["type"], "link": None} for i in subgraph["inputs"]],
        "outputs": [{"label": o["name"], "name": o["name"], "type": o["type"], "links": []} for o in subgraph["outputs"]],
        "properties": {"proxyWidgets": [[str(ids[key]), name] for key, name in blueprint.widgets]},
        "widgets_values": [], "title": blueprint.name,
    }  # fmt: skip
    graph = {"revision": 0, "last_node_id": number, "last_link_id": 0, "nodes": [node], "links": [], "version": 0.4}
    description = {"BlueprintDescription": blueprint.description}
    return graph | {"definitions": {"subgraphs": [subgraph]}, "extra": description}


def build(page: Page, blueprint: Blueprint) -> None:
    """Writes the file of a blueprint."""
    boxes: dict[str, list[float]] = {n.key: [k * (WIDTH + GAP), 0, WIDTH, 0] for k, n in enumerate(blueprint.nodes)}
    ids = put(page, list(blueprint.nodes), boxes)
    subgraph = definition(blueprint, page.evaluate(SERIALIZED), ids)
    SUBGRAPHS.mkdir(exist_ok=True)
    text = json.dumps(outer(blueprint, subgraph, ids), indent=1, ensure_ascii=False)
    (SUBGRAPHS / f"{blueprint.name}.json").write_text(text + "\n")


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        ComfyServer(Path(folder)) as server,
        page_of(server, 1600, 1000) as page,
    ):
        for blueprint in (forget_a_concept(), before_and_after()):
            build(page, blueprint)


if __name__ == "__main__":
    main()

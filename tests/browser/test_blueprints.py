"""The subgraph blueprints: the host lists them, and each runs as a node of a graph."""

import json

import pytest

from tools.comfy_host import REPOSITORY
from tools.front_end import RUN

BLUEPRINTS = sorted((REPOSITORY / "subgraphs").glob("*.json"))
LISTED = """async () => {
    const { api } = await import('/scripts/api.js');
    const answer = await api.fetchApi('/global_subgraphs');
    return answer.ok ? Object.values(await answer.json()).map(entry => entry.name) : null;
}"""
OPEN = """async graph => {
    await app.loadGraphData(graph);
    const outer = app.graph.nodes.find(n => n.subgraph);
    return { widgets: outer.widgets.map(w => w.name), prompt: (await app.graphToPrompt()).output };
}"""


def on_the_miniature(blueprint):
    """A graph of the blueprint's node behind the miniature's loader."""
    [outer] = blueprint["nodes"]
    kinds = ("MODEL", "CLIP", "VAE")
    outputs = [{"name": kind, "type": kind, "links": [k + 1]} for k, kind in enumerate(kinds)]
    loader = {
        "id": 9, "type": "FMN_LoadMiniature", "pos": [-400, 0], "size": [260, 120], "flags": {}, "order": 0, "mode": 0,
        "inputs": [], "outputs": outputs, "properties": {}, "widgets_values": [],
    }  # fmt: skip
    links = [[k + 1, 9, k, outer["id"], k, kind] for k, kind in enumerate(kinds)]
    for k in range(3):
        outer["inputs"][k]["link"] = k + 1
    return blueprint | {"nodes": [loader, outer], "links": links, "last_node_id": 9, "last_link_id": 3}


def test_the_host_lists_them(page):
    listed = page.evaluate(LISTED)
    if listed is None:
        pytest.skip("this host lists no subgraphs")
    assert {path.stem for path in BLUEPRINTS} <= set(listed)


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda p: p.stem)
def test_a_blueprint_runs_as_a_node(page, patches, path, screenshot):
    blueprint = json.loads(path.read_text())
    shown = [name for _, name in blueprint["nodes"][0]["properties"]["proxyWidgets"]]
    opened = page.evaluate(OPEN, on_the_miniature(blueprint))
    # Older front ends put the inner node's number before the name.
    assert [name.split(": ")[-1] for name in opened["widgets"][: len(shown)]] == shown
    kinds = {node["class_type"] for node in opened["prompt"].values()}
    assert kinds == {"FMN_LoadMiniature"} | {n["type"] for n in blueprint["definitions"]["subgraphs"][0]["nodes"]}
    if "FMN_ForgetConcept" in kinds:
        assert page.evaluate(RUN) == ""
        assert [p.name for p in patches.iterdir()] == ["forget_zebra.safetensors"]

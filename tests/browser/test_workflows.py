"""Every shipped workflow opens in the real front end, in a real browser."""

import json

import pytest

from bench.workflow import to_api
from mini_sd.comfy_host import REPOSITORY

OPEN = """async workflow => {
    await app.loadGraphData(workflow);
    const nodes = app.graph.nodes.map(n => ({id: n.id, size: [...n.size], least: [...n.computeSize()]}));
    return {prompt: (await app.graphToPrompt()).output, nodes};
}"""


@pytest.fixture(scope="module")
def info(server):
    return server.object_info()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "workflows").glob("*.json")), ids=lambda p: p.stem)
def test_the_front_end_makes_the_same_prompt(page, info, path):
    graph = json.loads(path.read_text())
    opened = page.evaluate(OPEN, graph)
    wanted = to_api(graph, info)
    assert set(opened["prompt"]) == set(wanted)
    for name, node in wanted.items():
        assert opened["prompt"][name]["class_type"] == node["class_type"]
        # The front end adds widgets of its own to some stock nodes, such as the text of a preview.
        known = {i for group in info[node["class_type"]]["input"].values() for i in group}
        made = {i: value for i, value in opened["prompt"][name]["inputs"].items() if i in known}
        assert made == node["inputs"], node["_meta"]["title"]
    for shown, saved in zip(opened["nodes"], graph["nodes"], strict=True):
        assert shown["size"] == saved["size"], saved["type"]
        assert all(s >= least for s, least in zip(shown["size"], shown["least"])), saved["type"]

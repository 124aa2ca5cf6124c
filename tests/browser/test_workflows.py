"""Every shipped workflow opens in the real front end, in a real browser.

Needs Chromium on the PATH and the Python package playwright; `make browser` installs the latter.
"""

import json
import shutil

import pytest

from bench.workflow import to_api
from mini_sd.comfy_host import REPOSITORY

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")
READY = "window.app && window.app.graph && window.app.extensionManager"
OPEN = """async workflow => {
    await app.loadGraphData(workflow);
    const nodes = app.graph.nodes.map(n => ({id: n.id, size: [...n.size], least: [...n.computeSize()]}));
    return {prompt: (await app.graphToPrompt()).output, nodes};
}"""


@pytest.fixture(scope="module")
def page(server):
    with playwright.sync_playwright() as play:
        # As root, as in a container, Chromium does not start in its sandbox.
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://{server.url}/")
        page.wait_for_function(READY, timeout=60_000)
        yield page
        browser.close()


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

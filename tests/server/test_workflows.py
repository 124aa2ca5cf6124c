"""Every shipped workflow runs to its end on the real server, on the miniature in place of a checkpoint.

Only where there is no browser: there, the page's own tests run the same prompts.
"""

import json

import pytest
from prompts import FEWER, pictures, saved_files

from tools.comfy_host import REPOSITORY
from tools.front_end import CHROMIUM
from tools.workflow import on_miniature, to_api

pytestmark = pytest.mark.skipif(CHROMIUM is not None, reason="tests/browser runs the workflows in the page")


@pytest.fixture(scope="module")
def info(server):
    return server.object_info()


def quick(prompt: dict) -> dict:
    """The same prompt with fewer steps and pictures."""
    for node in prompt.values():
        node["inputs"] |= {name: value for name, value in FEWER.items() if name in node["inputs"]}
    return prompt


@pytest.mark.parametrize("path", sorted((REPOSITORY / "workflows").glob("*.json")), ids=lambda p: p.stem)
def test_workflow_runs(server, face, patches, embeddings, info, path):
    prompt = quick(on_miniature(to_api(json.loads(path.read_text()), info)))
    for node in prompt.values():
        assert set(info[node["class_type"]]["input"].get("required", {})) <= set(node["inputs"]), node["_meta"]["title"]
    outputs = server.run(prompt)
    for name, node in prompt.items():
        if node["class_type"] in ("SaveImage", "PreviewImage"):
            assert pictures(server, outputs, name).float().std() > 1, node["_meta"]["title"]
    assert sorted(p.stem for p in [*patches.iterdir(), *embeddings.glob("*.safetensors")]) == saved_files(prompt)

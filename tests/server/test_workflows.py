"""Every shipped workflow is accepted by the real server and runs to its end, on the miniature in place of a checkpoint."""

import json

import pytest
from prompts import FEWER, pictures

from tools.comfy_host import REPOSITORY
from tools.workflow import on_miniature, to_api


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
    named = [n["inputs"].get("file_name") or n["inputs"].get("save_as") for n in prompt.values()]
    files = [name.replace("{phrase}", "zebra") for name in named if name]
    made = [*patches.iterdir(), *embeddings.glob("*.safetensors")]
    assert sorted(p.stem for p in made) == sorted(files)

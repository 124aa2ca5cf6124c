"""Every shipped workflow is accepted by the real server and runs to its end, on the miniature in place of a checkpoint."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from prompts import pictures

from bench.workflow import on_miniature, to_api
from mini_sd.comfy_host import REPOSITORY

# So few that all workflows together run in less than a minute; what the pictures show is not looked at here.
FEWER = {"steps": 2, "inversion_steps": 2, "warmup": 1, "batch": 1, "count": 1, "batch_size": 1}


@pytest.fixture(scope="module")
def info(server):
    return server.object_info()


@pytest.fixture(scope="module", autouse=True)
def face(server):
    """The picture that a workflow expects of its user: a face, from scikit-image's public-domain pictures."""
    folder = Path(importlib.util.find_spec("skimage").origin).parent / "data"
    shutil.copy(folder / "astronaut.png", server.base / "input" / "face.png")


def quick(prompt: dict) -> dict:
    """The same prompt with fewer steps and pictures."""
    for node in prompt.values():
        node["inputs"] |= {name: value for name, value in FEWER.items() if name in node["inputs"]}
    return prompt


@pytest.mark.parametrize("path", sorted((REPOSITORY / "workflows").glob("*.json")), ids=lambda p: p.stem)
def test_workflow_runs(server, patches, embeddings, info, path):
    prompt = quick(on_miniature(to_api(json.loads(path.read_text()), info)))
    for node in prompt.values():
        assert set(info[node["class_type"]]["input"].get("required", {})) <= set(node["inputs"]), node["_meta"]["title"]
    outputs = server.run(prompt)
    for name, node in prompt.items():
        if node["class_type"] in ("SaveImage", "PreviewImage"):
            assert pictures(server, outputs, name).float().std() > 1, node["_meta"]["title"]
    files = [n["inputs"]["file_name"] for n in prompt.values() if n["inputs"].get("file_name")]
    made = [*patches.iterdir(), *embeddings.glob("*.safetensors")]
    assert sorted(p.stem for p in made) == sorted(files)

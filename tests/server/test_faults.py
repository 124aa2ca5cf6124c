"""A folder that takes no file, through the real server: told before a training, and no loss of one that is done."""

import pytest
from prompts import apply, sampled, train, uncached

from tools.comfy_server import NodeError

RESTEERING = "attention re-steering"


@pytest.fixture
def loras(server, patches):
    """The LoRA folder; the patch folder in it is a folder again after the test."""
    yield server.loras
    if patches.is_file():
        patches.unlink()
    patches.mkdir(exist_ok=True)


def replaced_by_file(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("a file")


def test_a_folder_that_cannot_be_is_told_before_the_training(server, patches, loras):
    replaced_by_file(patches)
    steps = []
    with pytest.raises(NodeError, match="Expected to save in loras/forget_me_not, but the disk refused") as caught:
        server.run(
            uncached(train(method=RESTEERING, file_name="zebra")),
            lambda kind, data: steps.append(kind) if kind == "progress" else None,
        )
    assert "\n" not in str(caught.value) and not steps and patches.read_text() == "a file"


def test_a_missing_folder_is_made_and_holds_the_patch_alone(server, patches, loras):
    patches.rmdir()
    server.run(uncached(train(file_name="zebra")))
    assert [p.name for p in patches.iterdir()] == ["zebra.safetensors"]


def test_a_folder_that_is_lost_meanwhile_costs_no_patch(server, patches, loras):
    """The patch is applied and a picture drawn with it, though its file could not be written."""

    def on_event(kind, data):
        if kind == "progress" and patches.is_dir():
            replaced_by_file(patches)

    prompt = train(method=RESTEERING, steps=30, file_name="zebra") | apply(forget_patch=["train", 1])
    outputs = server.run(prompt | sampled("drawn", ["apply", 0], "a horse", steps=2), on_event)
    report = outputs["train"]["text"][0].splitlines()
    assert report[0].startswith("not saved: Expected to write") and "the disk refused" in report[0]
    assert report[-1].startswith("matched") and outputs["drawn"]["images"]
    assert patches.read_text() == "a file"

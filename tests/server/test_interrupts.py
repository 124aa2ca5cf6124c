"""Work that takes long: its progress is seen, and cancel ends it and leaves nothing behind."""

import threading

import pytest
from prompts import correct, invert, miniature, reference, same_picture_now, sampled, train
from safetensors.torch import save_file

from tools import hostile_files
from tools.comfy_server import NodeError

GATE = {
    "clip": ["mini", 1], "positive": ["drawn.text", 0], "patch_file": "forget_me_not/one.safetensors", "strength": 1.0,
    "start_percent": 0.0, "end_percent": 1.0, "threshold": 0.0, "curve": "step",
}  # fmt: skip
MERGE = {"clip": ["mini", 1], "patches": "one\ntwo", "method": "sum", "rank": 8, "file_name": ""}


def saved_patch(folder, name, phrases, lines=()):
    patch = hostile_files.good_patch()
    # no concept may have more than a hundred
    parts = [phrases[n : n + 100] for n in range(0, len(phrases), 100)]
    patch.concepts = [patch.concepts[0] | {"phrases": part} for part in parts]
    patch.settings["preserve_prompts"] = list(lines)
    save_file(patch.state_dict(), folder / f"{name}.safetensors", patch.metadata())


def gate(folder, phrases):
    saved_patch(folder, "one", phrases)
    nodes = miniature() | {"drawn.text": sampled("drawn", [], "a horse")["drawn.text"]}
    return nodes | {
        "work": {"class_type": "FMN_GatedForgetPatch", "inputs": GATE},
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["work", 2]}},
    }


def merge(folder, lines):
    for name in ("one", "two"):
        saved_patch(folder, name, [name], lines)
    return miniature() | {"work": {"class_type": "FMN_MergeForgetPatches", "inputs": MERGE}}


@pytest.mark.parametrize("node", ["gate", "merge"])
def test_cancel_ends_a_long_gate_and_a_long_merge(server, patches, node):
    if node == "gate":
        prompt = gate(patches, [f"phrase {n}" for n in range(300)])
    else:
        prompt = merge(patches, [f"name {n}" for n in range(2000)])
    values = []

    def on_event(kind, data):
        if kind == "progress" and data.get("node") == "work":
            if not values:
                threading.Thread(target=server.interrupt).start()
            values.append((data["value"], data["max"]))

    with pytest.raises(NodeError) as caught:
        server.run(prompt, on_event)
    assert caught.value.kind == "interrupted" and values[-1][0] < values[-1][1]


@pytest.mark.parametrize(
    ("make", "texts", "steps"), [(gate, [f"phrase {n}" for n in range(12)], 13), (merge, ["horse"], 3000)]
)
def test_gate_and_merge_tell_their_progress(server, patches, make, texts, steps):
    values = []

    def on_event(kind, data):
        if kind == "progress" and data.get("node") == "work":
            values.append(data["value"])
            assert data["max"] == steps

    server.run(make(patches, texts), on_event)
    # the host leaves some out where they follow each other fast
    assert values and values == sorted(values)


LONG = {
    "train": train(method="attention re-steering", steps=10000),
    "invert": miniature() | reference() | invert(inversion_steps=100000),
    "correct": miniature() | reference() | correct(inversion_steps=100000),
}


@pytest.mark.parametrize("node", LONG)
def test_interrupt_leaves_nothing_behind(server, patches, embeddings, picture_before, node):
    started = threading.Event()

    def on_event(kind, data):
        if kind == "progress" and data.get("node") == node and data.get("value", 0) >= 2 and not started.is_set():
            started.set()
            threading.Thread(target=server.interrupt).start()

    with pytest.raises(NodeError) as caught:
        server.run(LONG[node], on_event)
    assert caught.value.kind == "interrupted" and started.is_set()
    assert list(patches.iterdir()) == [] and list(embeddings.iterdir()) == []
    assert same_picture_now(server, picture_before)

"""What trainings keep for the next run, through the real server: in memory, and freed by Clear Forget Cache."""

import re

from prompts import options, reference, train, uncached

CLEAR = {"clear": {"class_type": "FMN_ClearForgetCache", "inputs": {}}}


def freed(server) -> float:
    """Megabytes that Clear Forget Cache frees."""
    prompt = CLEAR | {"show": {"class_type": "PreviewAny", "inputs": {"source": ["clear", 0]}}}
    outputs = server.run(prompt)
    [report] = outputs["clear"]["text"]
    assert outputs["show"]["text"] == [report]
    return float(re.fullmatch(r"freed (\d+\.\d) MB of memory", report)[1])


def test_what_a_training_keeps_is_in_memory_and_is_freed(server, patches):
    freed(server)
    assert freed(server) == 0
    prompt = reference() | train(
        method="attention re-steering", images=["ref.decode", 0], vae=["mini", 2], options=["options", 0], file_name=""
    )
    server.run(uncached(prompt | options()))
    kept = freed(server)
    assert kept > 0 and freed(server) == 0
    for _ in range(2):  # the second training takes what the first one kept
        server.run(uncached(prompt | options()))
    assert freed(server) == kept
    assert not list((server.base / "temp").rglob("*.safetensors"))
    assert not (server.base / "temp" / "forget_me_not").exists()


def test_the_pages_command_frees_it_too(server, patches):
    server.run(uncached(train(file_name="")))
    assert server.post("/forget_me_not/clear_cache", {})["megabytes"] > 0
    assert server.post("/forget_me_not/clear_cache", {}) == {"megabytes": 0.0}

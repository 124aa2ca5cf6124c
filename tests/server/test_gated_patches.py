"""Patches gated by the prompt and scheduled over the sampling, through the real server."""

import pytest
import torch
from patch_prompts import CONNECTED, gated, judged, said, steered, text
from prompts import HORSE, ZEBRA, apply, pictures, sampled, train

from tools.comfy_server import NodeError


def scheduled(name, of, **changes):
    inputs = {
        "positive": [f"{of}.text", 0], "negative": [f"{of}.negative", 0], "patch_file": CONNECTED, "forget_patch": ["train", 1],
        "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "apply_to": "both",
    }  # fmt: skip
    return {name: {"class_type": "FMN_ScheduleForgetPatch", "inputs": inputs | changes}} | text(f"{name}.said", name, 2)


@pytest.mark.parametrize("encode", ["CLIPTextEncode", "FMN_EncodePrompt"])
def test_a_gated_patch_leaves_other_prompts_bit_identical(server, patches, encode):
    prompt = train(file_name="")
    for name, caption in (("zebra", ZEBRA), ("horse", HORSE)):
        prompt |= sampled(f"{name}.plain", ["mini", 0], caption, batch=2, encode=encode, steps=12)
        prompt |= sampled(name, ["mini", 0], caption, batch=2, encode=encode, steps=12) | gated(f"{name}.gate", name)
        steered(prompt, name, f"{name}.gate")
    outputs = server.run(prompt)
    assert "acts at 1.00" in said(outputs, "zebra.gate.said").split("negative")[0]
    assert "acts at 0.00" in said(outputs, "horse.gate.said") and "acts at 1.00" not in said(outputs, "horse.gate.said")
    assert torch.equal(pictures(server, outputs, "horse"), pictures(server, outputs, "horse.plain"))
    assert judged(pictures(server, outputs, "zebra.plain")).count("zebra") == 2
    assert judged(pictures(server, outputs, "zebra")).count("zebra") == 0


def test_combined_and_area_conditionings_are_gated_one_by_one(server, patches):
    prompt = train(file_name="") | sampled("a", ["mini", 0], ZEBRA, batch=2) | sampled("b", ["mini", 0], HORSE, batch=2)
    area = {"width": 64, "height": 128, "x": 0, "y": 0, "strength": 1.0}
    prompt["left"] = {"class_type": "ConditioningSetArea", "inputs": {"conditioning": ["a.text", 0], **area}}
    prompt["all"] = {
        "class_type": "ConditioningCombine",
        "inputs": {"conditioning_1": ["left", 0], "conditioning_2": ["b.text", 0]},
    }
    prompt |= gated("gate", "b", positive=["all", 0])
    steered(prompt, "b", "gate")
    prompt |= sampled("plain", ["mini", 0], HORSE, batch=2)
    prompt["plain.sample"]["inputs"]["positive"] = ["all", 0]
    outputs = server.run(prompt)
    lines = said(outputs, "gate.said").splitlines()
    assert "acts at 1.00" in lines[2] and "acts at 0.00" in lines[3]
    assert not torch.equal(pictures(server, outputs, "b"), pictures(server, outputs, "plain"))


def test_a_scheduled_patch_on_both_conditionings_is_the_applied_patch(server, patches):
    prompt = train(file_name="") | apply(forget_patch=["train", 1]) | sampled("applied", ["apply", 0], ZEBRA, batch=2)
    prompt |= sampled("plain", ["mini", 0], ZEBRA, batch=2)
    cases = {
        "both": {},
        "positive": {"apply_to": "positive"},
        "late": {"start_percent": 0.6},
        "early": {"end_percent": 0.5},
    }
    for name, changes in cases.items():
        prompt |= sampled(name, ["mini", 0], ZEBRA, batch=2) | scheduled(f"{name}.when", name, **changes)
        steered(prompt, name, f"{name}.when")
    outputs = server.run(prompt)
    found = {name: pictures(server, outputs, name).float() for name in (*cases, "applied", "plain")}
    assert (found["both"] - found["applied"]).abs().max() <= 1
    for name in ("positive", "late", "early"):
        for other in ("plain", "applied"):
            assert not torch.equal(found[name], found[other]), (name, other)
    assert "from 60% to 100%" in said(outputs, "late.when.said")


def test_keyframes_of_the_host_rule_the_strength(server, patches):
    prompt = train(file_name="") | sampled("a", ["mini", 0], ZEBRA) | sampled("plain", ["mini", 0], ZEBRA)
    frame = {"strength_mult": 0.0, "start_percent": 0.0}
    prompt["frames"] = {"class_type": "CreateHookKeyframe", "inputs": frame}
    prompt |= scheduled("when", "a", keyframes=["frames", 0])
    outputs = server.run(steered(prompt, "a", "when"))
    assert torch.equal(pictures(server, outputs, "a"), pictures(server, outputs, "plain"))
    assert "times that of the keyframes" in said(outputs, "when.said")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_percent": 0.5, "end_percent": 0.5}, "a start before the end"),
        ({"forget_patch": None}, "got neither a file nor a connection"),
    ],
)
def test_a_gate_without_sense_is_one_sentence(server, patches, changes, message):
    prompt = train(file_name="") | sampled("a", ["mini", 0], ZEBRA) | gated("gate", "a", **changes)
    prompt["gate"]["inputs"] = {k: v for k, v in prompt["gate"]["inputs"].items() if v is not None}
    with pytest.raises(NodeError, match=message) as caught:
        server.run(steered(prompt, "a", "gate"))
    assert "\n" not in str(caught.value)

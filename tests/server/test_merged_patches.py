"""Patches merged through the real server, as one patch and side by side."""

import pytest
import torch
from patch_prompts import DOG, gated, judged, said, steered, stock
from prompts import HORSE, ZEBRA, apply, miniature, pictures, sampled

from fmn_core.patch.file import load_patch
from tools.comfy_server import NodeError

PATCHES = {name: f"{name}.safetensors" for name in ("zebra", "dog")} | {"horse": "zebra.safetensors"}


def merge(**changes):
    inputs = {"clip": ["mini", 1], "patches": "zebra\ndog", "method": "fusion", "rank": 64, "file_name": "both"}
    return {"merge": {"class_type": "FMN_MergeForgetPatches", "inputs": inputs | changes}}


@pytest.mark.parametrize("method", ["fusion", pytest.param("sum", marks=pytest.mark.slow)])
def test_a_merged_patch_forgets_both_and_keeps_the_rest(server, two, method):
    prompt = miniature() | merge(method=method) | apply(forget_patch=["merge", 0])
    prompt |= sampled("zebra", ["apply", 0], ZEBRA, batch=4, steps=12) | sampled(
        "dog", ["apply", 0], DOG, batch=4, steps=12
    )
    prompt |= sampled("horse", ["apply", 0], HORSE, batch=4, steps=12)
    outputs = server.run(prompt)
    report = said(outputs, "merge")
    assert f"{method} of 2 patches" in report and "forgets: zebra; dog" in report and "by sum" in report
    assert "saved forget_me_not/both.safetensors" in report
    found = {name: judged(pictures(server, outputs, name)).count(name) for name in ("zebra", "dog", "horse")}
    assert found["zebra"] == 0 and found["dog"] == 0 and found["horse"] >= 3
    loaded = load_patch(two / "both.safetensors")
    assert [c["phrases"] for c in loaded.concepts] == [["zebra"], ["dog"]] and loaded.settings["method"] == method
    again = miniature() | {"stock": stock("forget_me_not/both.safetensors")}
    again |= sampled("zebra", ["stock", 0], ZEBRA, batch=4, steps=12)
    assert torch.equal(pictures(server, server.run(again), "zebra"), pictures(server, outputs, "zebra"))


def test_side_by_side_each_prompt_meets_its_own_patch(server, two):
    prompt = miniature() | merge(method="side by side")
    for name, caption in (("zebra", ZEBRA), ("dog", DOG), ("horse", HORSE)):
        prompt |= sampled(f"{name}.plain", ["mini", 0], caption, batch=2, steps=12)
        for case, patch in (
            ("", {"forget_patch": ["merge", 0]}),
            (".file", {"patch_file": f"forget_me_not/{PATCHES[name]}"}),
        ):
            of = name + case
            prompt |= sampled(of, ["mini", 0], caption, batch=2, steps=12)
            prompt |= gated(f"{of}.gate", of, **{"forget_patch": None, **patch})
            if case:
                del prompt[f"{of}.gate"]["inputs"]["forget_patch"]
            steered(prompt, of, f"{of}.gate")
    outputs = server.run(prompt)
    report = said(outputs, "merge")
    assert "side by side of 2 patches" in report and "2 patches that Gated Forget Patch applies one by one" in report
    found = {name: pictures(server, outputs, name) for name in ("zebra", "dog", "horse")}
    assert torch.equal(found["horse"], pictures(server, outputs, "horse.plain"))
    for name in ("zebra", "dog"):
        assert judged(found[name]).count(name) == 0 and f"to {name}, acts at 1.00" in said(outputs, f"{name}.gate.said")
        assert (found[name].float() - pictures(server, outputs, f"{name}.file").float()).abs().max() <= 1
    assert len(load_patch(two / "both.safetensors").parts) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patches": "zebra"}, "Expected 2 to 100 patches to merge, got 1"),
        ({"patches": "zebra\nnothing"}, "'nothing.safetensors' is not there"),
        ({"patches": "zebra\n../../secret"}, "is not there"),
        ({"patches": "zebra\nzebra 0.5"}, "the phrase 'zebra' twice"),
        ({"patches": "\n".join(f"z{n}" for n in range(101))}, "at most 100 patches, got 101"),
        ({"file_name": "a/b"}, "a plain file name"),
    ],
)
def test_what_cannot_be_merged_is_one_sentence(server, two, changes, message):
    before = {p.name: p.read_bytes() for p in two.iterdir()}
    with pytest.raises(NodeError, match=message) as caught:
        server.run(miniature() | merge(**changes))
    assert "\n" not in str(caught.value) and caught.value.kind == "ForgetError"
    assert {p.name: p.read_bytes() for p in two.iterdir()} == before

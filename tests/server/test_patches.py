"""Patches through the real server: merged, gated, scheduled, shrunk, described."""

import json
import shutil
import threading

import pytest
import torch
from prompts import HORSE, ZEBRA, apply, invert, miniature, pictures, reference, sampled, train, uncached
from safetensors.torch import load_file

from fmn_core.patch.file import load_patch
from mini_sd.judge import classify, load_judge
from tools.comfy_server import NodeError

DOG = "a picture of a dog in noto style"
CONNECTED = "(from the forget_patch input)"


def judged(images):
    return classify(load_judge(), images.float() / 255)[0]


def text(name, node, output):
    return {name: {"class_type": "PreviewAny", "inputs": {"source": [node, output]}}}


def said(outputs, name):
    return "".join(outputs[name]["text"])


def steered(prompt, name, gate):
    """The picture of node `name` with the conditionings that node `gate` gives."""
    prompt[f"{name}.sample"]["inputs"] |= {"positive": [gate, 0], "negative": [gate, 1]}
    return prompt


def gated(name, of, **changes):
    """Gated Forget Patch on the conditionings of picture `of`."""
    inputs = {
        "clip": ["mini", 1], "positive": [f"{of}.text", 0], "negative": [f"{of}.negative", 0], "patch_file": CONNECTED,
        "forget_patch": ["train", 1], "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "threshold": 0.0, "curve": "step",
    }  # fmt: skip
    return {name: {"class_type": "FMN_GatedForgetPatch", "inputs": inputs | changes}} | text(f"{name}.said", name, 2)


def scheduled(name, of, **changes):
    inputs = {
        "positive": [f"{of}.text", 0], "negative": [f"{of}.negative", 0], "patch_file": CONNECTED, "forget_patch": ["train", 1],
        "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "apply_to": "both",
    }  # fmt: skip
    return {name: {"class_type": "FMN_ScheduleForgetPatch", "inputs": inputs | changes}} | text(f"{name}.said", name, 2)


PATCHES = {name: f"{name}.safetensors" for name in ("zebra", "dog")} | {"horse": "zebra.safetensors"}


def merge(**changes):
    inputs = {"clip": ["mini", 1], "patches": "zebra\ndog", "method": "fusion", "rank": 64, "file_name": "both"}
    return {"merge": {"class_type": "FMN_MergeForgetPatches", "inputs": inputs | changes}}


@pytest.fixture
def two(server, patches):
    """zebra.safetensors and dog.safetensors."""
    for name in ("zebra", "dog"):
        server.run(train(phrase=name, file_name=name))
    return patches


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


@pytest.mark.parametrize("method", ["fusion", "sum"])
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
    assert "\n" not in str(caught.value) and caught.value.kind.endswith("ForgetError")
    assert {p.name: p.read_bytes() for p in two.iterdir()} == before


def test_shrink_save_and_info(server, two):
    shrink = {"patch_file": "forget_me_not/zebra.safetensors", "rank": 2, "tolerance": 0.0, "precision": "fp16"}
    prompt = miniature() | sampled("preview", ["mini", 0], HORSE)
    prompt["shrink"] = {"class_type": "FMN_ShrinkForgetPatch", "inputs": {**shrink, "file_name": ""}}
    about = {
        "title": "No zebras",
        "author": "A. Author",
        "licence": "CC0-1.0",
        "notes": "For a test.",
        "precision": "bf16",
        "embedding_keys": False,
    }
    picture = {"preview": ["preview.decode", 0], "forget_patch": ["shrink", 0]}
    prompt["save"] = {
        "class_type": "FMN_SaveForgetPatch",
        "inputs": {"patch_file": CONNECTED, "file_name": "shared", **about, **picture},
    }
    outputs = server.run(prompt)
    assert "-> 2, fp16" in said(outputs, "shrink") and "energy left behind" in said(outputs, "shrink")
    assert "saved forget_me_not/shared.safetensors" in said(outputs, "save")
    loaded = load_patch(two / "shared.safetensors")
    assert {f.rank for f in loaded.factors.values()} == {2} and loaded.factors.popitem()[1].up.dtype == torch.bfloat16

    info = {"patch_file": "forget_me_not/shared.safetensors", "model": ["mini", 0]}
    prompt = miniature() | {"info": {"class_type": "FMN_ForgetPatchInfo", "inputs": info}} | text("json", "info", 1)
    prompt["show"] = {"class_type": "PreviewImage", "inputs": {"images": ["info", 2]}}
    outputs = server.run(prompt)
    for part in ("forgets: zebra", "title: No zebras", "author: A. Author", "licence: CC0-1.0", "method: closed form"):
        assert part in said(outputs, "info")
    assert "16 of 16 layers match; the same base" in said(outputs, "info")
    assert json.loads(said(outputs, "json"))["concepts"] == [{"kind": "object", "phrases": ["zebra"]}]
    assert pictures(server, outputs, "show").shape == (1, 128, 128, 3)


def test_a_negative_strength_warns(server, patches):
    prompt = train(file_name="") | apply(forget_patch=["train", 1], strength=-0.5) | text("said", "apply", 1)
    assert "warning: a negative strength does the opposite" in said(server.run(prompt), "said")


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


def test_a_checkpoint_saved_with_the_patch_has_forgotten(server, patches):
    """The stock CheckpointSave bakes the patch in: its weights are the base's plus the patch's change."""
    prompt = train(file_name="p") | {
        "plain": save_checkpoint("plain", "mini"),
        "baked": save_checkpoint("baked", "train"),
    }
    server.run(prompt)
    plain, baked = (load_file(next(server.base.glob(f"output/{n}_*.safetensors"))) for n in ("plain", "baked"))
    patch = load_patch(patches / "p.safetensors")
    changed = [k for k in plain if not torch.equal(plain[k], baked[k])]
    assert len(changed) == len(patch.factors) == 16 and all(k.endswith("attn2.to_v.weight") for k in changed)
    deltas = [f.delta() for f in patch.factors.values()]
    for key in changed:
        found = baked[key].float() - plain[key].float()
        step = plain[key].float().abs().max() * 2**-10
        assert any(d.shape == found.shape and (d - found).abs().max() <= step for d in deltas), key


def save_checkpoint(name, node):
    inputs = {"model": [node, 0], "clip": ["mini", 1], "vae": ["mini", 2], "filename_prefix": name}
    return {"class_type": "CheckpointSave", "inputs": inputs}


def test_two_clients_at_once_do_not_disturb_each_other(server, patches):
    def work(phrase):
        return uncached(train(phrase=phrase, file_name=f"of_{phrase}") | sampled("a", ["train", 0], HORSE))

    alone, together = {}, {}
    for phrase in ("zebra", "dog"):
        server.run(work(phrase))
        alone[phrase] = (patches / f"of_{phrase}.safetensors").read_bytes()
        (patches / f"of_{phrase}.safetensors").unlink()
    server.run(train(phrase="cat", file_name=""))  # or the host would answer the last prompt from its cache
    threads = [threading.Thread(target=server.run, args=(work(p),)) for p in ("zebra", "dog")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    for phrase in ("zebra", "dog"):
        together[phrase] = (patches / f"of_{phrase}.safetensors").read_bytes()
    assert together == alone


def test_an_inverted_concept_travels_with_its_patch(server, patches, embeddings):
    prompt = miniature() | reference() | invert(file_name="") | train(phrase="", concepts=["invert", 0], file_name="p")
    server.run(prompt)
    assert list(embeddings.iterdir()) == []
    file = {"patch_file": "forget_me_not/p.safetensors"}
    about = {"title": "", "author": "", "licence": "", "notes": "", "precision": "fp16", "embedding_keys": True}
    save = {"save": {"class_type": "FMN_SaveForgetPatch", "inputs": {**file, **about, "file_name": "bundled"}}}
    server.run(save)
    bundled = load_file(patches / "bundled.safetensors")
    assert bundled["bundle_emb.forgotten_1.string_to_param.*"].shape == (2, 96)
    install = {"class_type": "FMN_InstallPatchEmbedding", "inputs": {**file, "file_name": "brought"}}
    outputs = server.run({"install": install} | text("named", "install", 1))
    assert said(outputs, "named") == "embedding:brought" and (embeddings / "brought.safetensors").exists()
    # the host itself reads the vectors from the LoRA file, and the stock loader applies it
    shutil.copy(patches / "bundled.safetensors", embeddings / "from_lora.safetensors")
    prompt = miniature() | {"stock": stock("forget_me_not/bundled.safetensors")}
    for name, caption in (("a", "a picture of a embedding:brought"), ("b", "a picture of a embedding:from_lora")):
        prompt |= sampled(name, ["stock", 0], caption)
    outputs = server.run(prompt)
    assert torch.equal(pictures(server, outputs, "a"), pictures(server, outputs, "b"))


def stock(file, strength=1.0):
    inputs = {"model": ["mini", 0], "lora_name": file, "strength_model": strength}
    return {"class_type": "LoraLoaderModelOnly", "inputs": inputs}


def test_a_patch_without_an_inverted_concept_has_nothing_to_install(server, two):
    inputs = {"patch_file": "forget_me_not/zebra.safetensors", "file_name": "x"}
    with pytest.raises(NodeError, match="a patch that carries an inverted concept"):
        server.run({"install": {"class_type": "FMN_InstallPatchEmbedding", "inputs": inputs}})


def test_strengths_between_and_beyond(server, two):
    """Half the strength moves the picture less than the whole, one and a half times still gives a picture."""
    prompt = miniature()
    for strength in (0.0, 0.25, 1.0, 1.5):
        prompt[f"l{strength}"] = stock("forget_me_not/zebra.safetensors", strength)
        prompt |= sampled(f"p{strength}", [f"l{strength}", 0], ZEBRA, batch=2, steps=12)
    prompt |= sampled("plain", ["mini", 0], ZEBRA, batch=2, steps=12)
    outputs = server.run(prompt)
    found = {name: pictures(server, outputs, name).float() for name in ("plain", "p0.0", "p0.25", "p1.0", "p1.5")}
    assert torch.equal(found["p0.0"], found["plain"])
    apart = [float((found[name] - found["plain"]).abs().mean()) for name in ("p0.25", "p1.0", "p1.5")]
    assert 0 < apart[0] < apart[1] and judged(found["p1.5"]).count("zebra") == 0 and found["p1.5"].std() > 20

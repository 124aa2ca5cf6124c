"""Patches through the real server: shrunk, saved, described, installed, and at every strength."""

import json
import shutil
import threading

import pytest
import torch
from patch_prompts import CONNECTED, judged, said, stock, text
from prompts import HORSE, ZEBRA, apply, invert, miniature, pictures, reference, sampled, train, uncached
from safetensors.torch import load_file

from fmn_core.patch.file import load_patch
from tools.comfy_server import NodeError


def test_saving_with_a_lower_rank_is_shrinking(server, two):
    file = {"patch_file": "forget_me_not/zebra.safetensors", "title": "", "author": "", "licence": "", "notes": ""}
    save = {**file, "precision": "fp16", "embedding_keys": False, "rank": 2, "tolerance": 0.0, "file_name": "small"}
    outputs = server.run({"save": {"class_type": "FMN_SaveForgetPatch", "inputs": save}})
    assert "-> 2, energy left behind" in said(outputs, "save")
    small, whole = load_patch(two / "small.safetensors"), load_patch(two / "zebra.safetensors")
    assert {f.rank for f in small.factors.values()} == {2} and small.concepts == whole.concepts
    for name, factors in small.factors.items():
        assert (factors.delta() - whole.factors[name].delta()).norm() < whole.factors[name].delta().norm()


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

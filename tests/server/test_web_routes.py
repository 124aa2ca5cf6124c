"""What the page asks the server, over its real HTTP and websocket API."""

import json
import shutil
import threading
import urllib.parse

import pytest
import torch
from prompts import apply, invert, miniature, options, reference, train
from safetensors.torch import save_file

from tools import hostile_files
from tools.comfy_server import NodeError

RESTEERING = "attention re-steering"
EVENT = "forget_me_not.monitor"


def tokens(server, **asked):
    return server.post("/forget_me_not/tokens", asked)


def lit(row):
    return [c["text"] for c in row["chips"] if c["lit"]]


def listed(server, node="", loader="", file="", workflow=""):
    question = urllib.parse.urlencode({"workflow": workflow, "node": node, "loader": loader, "file": file})
    entries = json.loads(server.get(f"/forget_me_not/patches?{question}"))["patches"]
    return {e["name"].split("/")[-1]: e for e in entries}


def test_tokens_of_a_prompt(server):
    found = tokens(server, prompt="a photo of santa claus", phrase="santa claus\nhorse", end_token="first")
    [row] = found["rows"]
    assert [c["text"] for c in row["chips"]] == ["a", "photo", "of", "santa", "claus", "end"]
    assert lit(row) == ["santa", "claus", "end"] and row["warnings"] == ["'horse' is not in the prompt"]


def test_tokens_of_a_phrase_without_a_prompt(server):
    found = tokens(server, phrase="zebra\nstriped horse", kind="object", end_token="none")
    assert [lit(row) for row in found["rows"]] == [["zebra"], ["striped", "horse"]]
    assert all(row["warnings"] == [] for row in found["rows"])
    own = tokens(server, phrase="zebra", templates="my {} at home", end_token="none")
    assert [c["text"] for c in own["rows"][0]["chips"]] == ["my", "zebra", "at", "home", "end"]


def test_the_tokenizer_is_the_connected_one_after_a_run(server, patches):
    assert tokens(server, node="never", phrase="zebra")["tokenizer"] == "standard"
    server.run(train(file_name=""))
    assert tokens(server, node="train", phrase="zebra")["tokenizer"] == "connected"


@pytest.mark.parametrize(
    "asked", [{"prompt": 3}, {"phrase": ["zebra"]}, {"phrase": "x" * 30_000}, {"phrase": "a", "templates": "no braces"}]
)
def test_bad_questions_get_a_sentence(server, asked):
    found = tokens(server, **asked)
    assert found["status"] == 400 and found["error"].startswith("Expected")


def test_patches_are_listed_with_what_they_say(server, patches):
    server.run(train(file_name="zebra"))
    entry = listed(server)["zebra.safetensors"]
    assert entry["forgets"] == "zebra" and entry["method"] == "closed form" and entry["mismatch"] == ""
    assert 0 < entry["figures"]["held_out_drift"] < 1 and entry["bytes"] > 10_000 and entry["date"].startswith("20")


def test_a_patch_for_another_base_is_told_after_a_run(server, patches):
    server.run(train(file_name="zebra", seed=1) | apply(forget_patch=["train", 1]) | shown("apply"))
    other = hostile_files.good_patch()
    save_file(other.state_dict(), patches / "other.safetensors", other.metadata())
    found = listed(server, "apply")
    assert found["zebra.safetensors"]["mismatch"] == "" and "unet-3x16" in found["other.safetensors"]["mismatch"]
    assert listed(server)["other.safetensors"]["mismatch"] == ""


def test_what_ran_is_remembered_for_its_workflow_only(server, patches):
    other = hostile_files.good_patch()
    save_file(other.state_dict(), patches / "other.safetensors", other.metadata())
    graph = train(file_name="", seed=2) | apply(name="17", forget_patch=["train", 1]) | shown("17")
    server.run(graph, workflow={"id": "one"})
    assert "unet-3x16" in listed(server, "17", workflow="one")["other.safetensors"]["mismatch"]
    assert listed(server, "17", workflow="two")["other.safetensors"]["mismatch"] == ""
    assert listed(server, "17")["other.safetensors"]["mismatch"] == ""
    assert tokens(server, workflow="one", node="train", phrase="zebra")["tokenizer"] == "connected"
    assert tokens(server, workflow="two", node="train", phrase="zebra")["tokenizer"] == "standard"


@pytest.mark.parametrize(("seed", "workflow"), list(enumerate([{}, {"id": ["x"]}, ["id"], "id", 3], 100)))
def test_any_workflow_that_is_sent_along_lets_the_nodes_run(server, patches, seed, workflow):
    # A seed of its own, so that no result of another run is used again.
    assert server.run(train(file_name="", seed=seed) | shown("train"), workflow=workflow)


def test_a_patch_for_another_base_is_told_before_any_run_where_the_file_is_known(server, patches):
    other = hostile_files.good_patch()
    save_file(other.state_dict(), patches / "other.safetensors", other.metadata())
    checkpoints = server.base / "models" / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    layer = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({layer.format(n): torch.zeros(24, 16) for n in range(3)}, checkpoints / "fits.safetensors")

    def told(**asked):
        return listed(server, "never run", **asked)["other.safetensors"]["mismatch"]

    assert "unet-3x16" in told(loader="miniature")
    assert told(loader="ckpt_name", file="fits.safetensors") == ""
    (checkpoints / "fits.safetensors").unlink()
    unknown = [
        ("ckpt_name", "gone.safetensors"),
        ("ckpt_name", "../loras/forget_me_not/other.safetensors"),
        ("lora_name", ""),
    ]
    assert [told(loader=loader, file=file) for loader, file in unknown] == [""] * 3


def test_every_page_is_told_of_a_saved_patch(server, patches):
    seen = []
    server.run(
        train(file_name="zebra", seed=5),
        lambda kind, data: seen.append(data) if kind == "forget_me_not.saved" else None,
    )
    assert seen == [{"name": "forget_me_not/zebra.safetensors"}]


def shown(node):
    return {"said": {"class_type": "PreviewAny", "inputs": {"source": [node, 1]}}}


def test_a_strangers_metadata_is_short_plain_text(server, patches):
    patch = hostile_files.good_patch()
    html = "<img src=x onerror=alert(1)>\x00\x1b[31m\n" + "x" * 900
    patch.about = {"title": html, "author": html, "notes": html, "preview": "javascript:alert(1)"}
    patch.concepts[0]["phrases"] = [html]
    save_file(patch.state_dict(), patches / "hostile.safetensors", patch.metadata())
    (patches / "broken.safetensors").write_bytes(b"\x80\x04pickle")
    found = listed(server)
    entry = found["hostile.safetensors"]
    assert entry["preview"] == "" and all(len(v) < 400 for v in entry.values() if isinstance(v, str))
    assert not any(c in json.dumps(entry, ensure_ascii=False) for c in "\x00\x1b") and "\n" not in entry["title"]
    assert "which can run code" in found["broken.safetensors"]["error"]


def test_a_link_out_of_the_folder_and_a_folder_are_no_harm(server, patches):
    (patches / "link.safetensors").symlink_to("/etc/hostname")
    (patches / "folder.safetensors").mkdir()
    (patches / "dangling.safetensors").symlink_to(patches / "nothing")
    try:
        found = listed(server)
        assert "error" in found["link.safetensors"] and all("error" in entry for entry in found.values())
    finally:
        shutil.rmtree(patches / "folder.safetensors")


def test_the_monitor_follows_a_training_and_stop_keeps_what_it_has(server, patches):
    seen, stopped = [], threading.Event()

    def on_event(kind, data):
        if kind == EVENT:
            seen.append(data)
            if data["step"] >= 3 and not stopped.is_set():
                stopped.set()
                assert server.post("/forget_me_not/stop", {"node": data["node"]}) == {"stopping": True}

    chosen = options(preview_every=2, drift_every=2)
    prompt = (
        train(method=RESTEERING, steps=10_000, target_mass=0.01, file_name="early", options=["options", 0]) | chosen
    )
    outputs = server.run(prompt, on_event)
    report = outputs["train"]["text"][0]
    assert "(stopped by the user)" in report and (patches / "early.safetensors").is_file()
    steps = int(report.split("steps: ")[1].split()[0])
    assert 3 <= steps < 1000
    assert {"loss", "attention mass", "target", "drift"} <= set(seen[-1]["curves"])
    assert seen[-1]["running"] is False and seen[-1]["total"] == 10_000 and seen[1]["left"] > 0
    assert any(s.get("preview", "").startswith("data:image/jpeg;base64,") for s in seen)
    state = json.loads(server.get("/forget_me_not/monitor"))["train"]
    assert state["step"] == steps and state["running"] is False
    assert server.post("/forget_me_not/stop", {"node": "train"}) == {"stopping": False}


def test_an_inversion_can_be_stopped_too(server, patches, embeddings):
    def on_event(kind, data):
        if kind == EVENT and data["step"] >= 2:
            server.post("/forget_me_not/stop", {"node": data["node"]})

    prompt = miniature() | reference() | invert(inversion_steps=5000, file_name="early")
    server.run(prompt, on_event)
    assert (embeddings / "early.safetensors").is_file()


def test_the_page_is_told_the_end_of_a_training_that_was_interrupted(server, patches):
    seen = []

    def on_event(kind, data):
        if kind == EVENT:
            seen.append(data)
            if data["step"] >= 2 and data["running"]:
                server.interrupt()

    with pytest.raises(NodeError, match="interrupted"):
        server.run(train(method=RESTEERING, steps=10_000, file_name="early"), on_event)
    assert json.loads(server.get("/forget_me_not/monitor"))["train"]["running"] is False
    assert not (patches / "early.safetensors").exists() and seen

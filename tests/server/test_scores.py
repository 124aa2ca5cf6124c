"""The score nodes through the real server: a chain that ends in one report, and what bad input gets."""

import json
import math

import pytest
import torch
from prompts import HORSE, INVERSION, ZEBRA, miniature, pictures, sampled, train, uncached

from mini_sd.concepts import CONCEPT_NAMES
from tools.comfy_server import NodeError

SYNONYM = "a picture of a striped horse in noto style"
FEW = {"kind": "object", "phrase": "zebra", "clip": ["mini", 1], "vae": ["mini", 2], "images": ["before.decode", 0]}


def node(kind: str, previous: str = "", /, **inputs) -> dict:
    """A node that takes the scores of the node `previous`, which gives them first."""
    return {"class_type": f"FMN_{kind}", "inputs": inputs | ({"scores": [previous, 0]} if previous else {})}


def judge(name: str = "miniature") -> dict:
    return {"judge": node("LoadImageTextModel", model_name=name)}


def drawn() -> dict:
    """Two pictures each of zebra before and after forgetting, and after it of the synonym and the horse."""
    asked = {
        "before": ("mini", ZEBRA),
        "after": ("train", ZEBRA),
        "again": ("train", SYNONYM),
        "kept": ("train", HORSE),
    }
    nodes = train(file_name="")
    for name, (model, caption) in asked.items():
        nodes |= sampled(name, [model, 0], caption, batch=2)
    return nodes


def clip_score(name: str, text: str = ZEBRA, previous: str = "") -> dict:
    """CLIP Score of the pictures of node `name`, as node "NAME.clip"."""
    inputs = {"images": [f"{name}.decode", 0], "text": text, "image_text": ["judge", 0], "label": name}
    return {f"{name}.clip": node("ClipScore", previous, **inputs)}


def accuracies(previous: str = "", **changes) -> dict:
    inputs = {"forgotten": ["after.decode", 0], "concept": "zebra", "labels": "\n".join(CONCEPT_NAMES)}
    return {"accuracies": node("ForgetAccuracies", previous, image_text=["judge", 0], **inputs | changes)}


def distance(previous: str = "", **changes) -> dict:
    inputs = {"before": ["before.decode", 0], "after": ["after.decode", 0], "measure": "CMMD"}
    return {"distance": node("PictureDistance", previous, image_text=["judge", 0], **inputs | changes)}


def m_score(previous: str = "", **changes) -> dict:
    inputs = FEW | INVERSION | {"model_before": ["mini", 0], "model_after": ["train", 0], "image_text": ["judge", 0]}
    return {"m": node("MScore", previous, **inputs | {"inversion_steps": 3} | changes)}


def attack(**changes) -> dict:
    """A short attack as node "attack", and pictures of what it found as node "attacked"."""
    inputs = FEW | {"model": ["train", 0], "attack": "embedding", "steps": 3, "batch": 1, "tokens": 0, "candidates": 4}
    inputs |= {"seed": 0, "file_name": "zebra_attack"}
    named = {"string_a": "a picture of a", "string_b": ["attack", 1], "delimiter": " "}
    return {
        "attack": node("AttackForgetPatch", **inputs | changes),
        "named": {"class_type": "StringConcatenate", "inputs": named},
        **sampled("attacked", ["train", 0], ["named", 0], batch=2),
    }


def said(name: str, output: int) -> dict:
    return {"said": {"class_type": "PreviewAny", "inputs": {"source": [name, output]}}}


def whole_chain() -> dict:
    nodes = drawn() | judge() | clip_score("before") | clip_score("after", previous="before.clip")
    others = {"synonyms": ["again.decode", 0], "others": ["kept.decode", 0], "other_labels": "horse"}
    nodes |= accuracies("after.clip", **others) | distance("accuracies") | m_score("distance")
    nodes |= attack() | clip_score("attacked", previous="m")
    inputs = {"before": ["before.decode", 0], "after": ["after.decode", 0], "forget_patch": ["train", 1]}
    nodes["report"] = node("ForgetReport", "attacked.clip", filename_prefix="scores/zebra", **inputs)
    return nodes | said("report", 1)


def test_every_score_is_in_the_report(server, patches, embeddings):
    outputs = server.run(whole_chain())
    rows = json.loads(outputs["said"]["text"][0])["scores"]
    found = {row["score"]: row["value"] for row in rows}
    assert list(found) == [
        *("CLIP score, before", "CLIP score, after", "UA", "UA of synonyms", "IRA", "H_o", "CMMD"),
        *("M-Score before", "M-Score after", "CLIP score, attacked"),
    ]
    assert found["CLIP score, after"] < found["CLIP score, before"] - 0.25 and found["CMMD"] > 0
    assert found["UA"] == found["IRA"] == 1
    assert found["H_o"] == pytest.approx(3 / (2 + 1 / found["UA of synonyms"]))
    assert all(math.isfinite(value) and row["note"] for value, row in zip(found.values(), rows))
    folder = server.base / "output" / "scores"
    assert sorted(p.name for p in folder.iterdir()) == ["zebra_00001_.json", "zebra_00001_.png"]
    assert "embedding:zebra_attack" in "\n".join(outputs["attack"]["text"])
    assert [p.name for p in embeddings.glob("*.safetensors")] == ["zebra_attack.safetensors"]
    again = uncached(sampled("a", ["mini", 0], ZEBRA, batch=2)) | miniature()
    show = next(name for name, made in again.items() if made["class_type"] == "PreviewImage")
    assert torch.equal(pictures(server, server.run(again), show), pictures(server, outputs, "before"))


def test_without_synonyms_and_others_there_is_no_harmonic_mean(server):
    text = server.run(drawn() | judge() | accuracies() | said("accuracies", 1))["said"]["text"][0]
    assert text.startswith("UA: 1 ") and text.endswith("no H_o: connect synonyms and others")


BAD = {
    "no prompt": (clip_score("after", " \n"), "a text that the pictures should fit"),
    "three prompts for two pictures": (clip_score("after", "a\nb\nc"), "one for each of 2 pictures, got 3"),
    "no concept": (accuracies(concept=" "), "the label of the forgotten concept"),
    "one label": (accuracies(labels=""), "two different labels"),
    "a label that is not listed": (
        accuracies(others=["kept.decode", 0], other_labels="unicorn"),
        "unicorn, which labels does not list",
    ),
    "three labels for two pictures": (
        accuracies(others=["kept.decode", 0], other_labels="horse\nhorse\nhorse"),
        "got 3 for 2 pictures",
    ),
    "drift of as many pictures as there are not": (
        distance(measure="drift", after=["small", 0]),
        "one size on both sides",
    ),
    "no name to compare with": (m_score(phrase=""), "a phrase of 1 to"),
    "nothing to search from": (attack(phrase=" "), "the phrase that was forgotten"),
    "a file name with a folder": (attack(file_name="../x"), "a plain file name"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(server, patches, embeddings, case):
    nodes, message = BAD[case]
    small = {"width": 64, "height": 64, "batch_size": 1, "color": 0}
    refused(server, nodes | {"small": {"class_type": "EmptyImage", "inputs": small}}, message)
    assert not list(embeddings.iterdir()) and not list(server.base.glob("models/x*"))


def refused(server, nodes: dict, message: str, kind: str = "ForgetError") -> None:
    """One sentence of the pack's own in the node that ends the prompt, before ("validation") or while it runs."""
    last = next(iter(nodes))
    with pytest.raises(NodeError) as caught:
        server.run(judge() | drawn() | nodes | said(last, 0))
    text = str(caught.value)
    assert message in text and "Traceback" not in text and "\n" not in text
    assert caught.value.node == last and caught.value.kind.endswith(kind)


@pytest.fixture
def folder(server):
    """A folder among the image-text models, empty before and gone after the test."""
    made = server.base / "models" / "clip_score" / "mine"
    made.mkdir(parents=True)
    yield made
    for file in made.iterdir():
        file.unlink()
    made.rmdir()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "'mine' is not there"),
        ("[]", "that names its model_type"),
        ('{"model_type": "bert"}', "an image-text model"),
        ('{"model_type": "clip"}', "weights as *.safetensors in mine"),
    ],
)
def test_a_folder_that_holds_no_image_text_model(server, folder, config, message):
    if config is not None:
        (folder / "config.json").write_text(config)
    refused(server, judge("mine"), message, "ForgetError" if config is not None else "validation")


def test_a_folder_that_is_not_there(server):
    refused(server, judge("nothing"), "'nothing' is not there", "validation")

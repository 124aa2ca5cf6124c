"""Concept and Concept Preset through the real server."""

import json

import pytest
import torch
from prompts import concept, miniature, sampled

from fmn_core.concepts.embedding_file import Embedding, save_embedding
from tools.comfy_server import NodeError


def preset(name: str, preset: str, **inputs) -> dict:
    return {name: {"class_type": "FMN_ConceptPreset", "inputs": {"preset": preset} | inputs}}


def shown(chain: str, output: int = 0) -> dict:
    return {"show": {"class_type": "PreviewAny", "inputs": {"source": [chain, output]}}}


def text(server, prompt: dict) -> str:
    return server.run(prompt)["show"]["text"][0]


@pytest.fixture
def own_presets(server):
    folder = server.base / "user" / "default" / "forget_me_not" / "presets"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    for file in folder.iterdir():
        file.unlink()


def test_two_concepts_and_a_preset_make_one_chain(server):
    prompt = concept("a", phrases="zebra\nstriped horse") | concept(
        "b", phrases="noto", kind="style", previous=["a", 0]
    )
    prompt |= preset("c", "violence", previous=["b", 0])
    chain = text(server, prompt | shown("c"))
    places = [chain.index(p) for p in ("['zebra', 'striped horse']", "['noto']", "['violence', ", "['blood', ")]
    assert places == sorted(places) and chain.count("Concept(") == 4
    listing = text(server, prompt | shown("c", 1))
    assert listing.startswith("violence: Violence") and "zebra" not in listing and listing.count("- unsafe: ") == 2


def test_pictures_with_a_mask_and_an_embedding(server, embeddings):
    save_embedding(Embedding({"l": torch.ones(3, 96)}, "zebra"), embeddings / "zebra.safetensors")
    pictures = miniature() | sampled("p", ["mini", 0], "a picture of a zebra in noto style", batch=2, steps=2)
    del pictures["p"]
    pictures["mask"] = {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 40, "height": 30}}
    references = {"images": ["p.decode", 0], "mask": ["mask", 0], "embedding": "zebra.safetensors"}
    chain = text(server, pictures | concept("a", **references) | shown("a"))
    assert "tensor" in chain and "0.5000" in chain and "embedding={'l': tensor([[1., 1., 1." in chain


def test_a_users_preset_is_used_at_once_and_again_when_it_changes(server, own_presets):
    for phrase in ("gun", "pistol"):
        (own_presets / "guns.json").write_text(json.dumps({"concepts": [{"phrases": [phrase]}]}))
        assert text(server, preset("a", "guns") | shown("a", 1)) == (
            f"guns\n- unsafe: {phrase}\nfrom the user's file user/default/forget_me_not/presets/guns.json"
        )
    assert "guns" in server.object_info()["FMN_ConceptPreset"]["input"]["required"]["preset"][1]["options"]


def test_a_preset_in_place_of_a_shipped_one_says_so(server, own_presets):
    assert text(server, preset("a", "violence") | shown("a", 1)).endswith("\nfrom the pack's own presets")
    (own_presets / "violence.json").write_text(json.dumps({"concepts": [{"phrases": ["kitten"]}]}))
    assert text(server, preset("a", "violence") | shown("a", 1)).endswith(
        "- unsafe: kitten\nfrom the user's file user/default/forget_me_not/presets/violence.json "
        "in place of the one that ships with the pack"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phrases": "\n"}, "a phrase to forget, got an empty text"),
        ({"templates": "a zebra"}, "one {} for the phrase"),
        ({"previous": ["first", 0], "phrases": "DOG"}, "the phrase 'DOG' twice"),
        ({"mask": ["mask", 0]}, "images for the mask, got none"),
        ({"images": ["image", 0], "mask": ["empty", 0]}, "a mask with something in it"),
        ({"images": ["small", 0]}, "at least 8 x 8 pixels"),
        ({"embedding": "bad.safetensors"}, "bad.safetensors is corrupt"),
        ({"embedding": "bad.pt"}, "a pickle in bad.pt, which can run code"),
    ],
)
def test_bad_concepts(server, embeddings, changes, message):
    (embeddings / "bad.safetensors").write_bytes(b"hello")
    (embeddings / "bad.pt").write_bytes(b"\x80\x02}q\x00.")
    nodes = concept("first", phrases="dog")
    for name, value in (("mask", 1.0), ("empty", 0.0)):
        nodes[name] = {"class_type": "SolidMask", "inputs": {"value": value, "width": 16, "height": 16}}
    for name, size in (("image", 16), ("small", 4)):
        size = {"width": size, "height": size, "batch_size": 1, "color": 0}
        nodes[name] = {"class_type": "EmptyImage", "inputs": size}
    with pytest.raises(NodeError, match=message) as caught:
        server.run(nodes | concept("a", **changes) | shown("a"))
    assert "\n" not in str(caught.value) and caught.value.kind == "ForgetError" and caught.value.node == "a"


@pytest.mark.parametrize("name", ["nothing.safetensors", "../../secret.safetensors"])
def test_unknown_embeddings_are_refused_before_anything_runs(server, name):
    with pytest.raises(NodeError, match="Expected an embedding from the list") as caught:
        server.run(concept("a", embedding=name) | shown("a"))
    assert caught.value.kind == "validation"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gambling", r"\(.*nudity.*\), got 'gambling'"),
        ("../nudity", "the plain name of a preset"),
        ("broken", "JSON in the preset broken.json"),
        ("wrong", "Preset wrong.json, concept 1: expected only the fields"),
    ],
)
def test_bad_presets_are_refused_before_anything_runs(server, own_presets, name, message):
    (own_presets / "broken.json").write_text("{")
    (own_presets / "wrong.json").write_text('{"concepts": [{"words": ["gun"]}]}')
    with pytest.raises(NodeError, match=message) as caught:
        server.run(preset("a", name) | shown("a"))
    assert caught.value.kind == "validation" and "\n" not in str(caught.value)

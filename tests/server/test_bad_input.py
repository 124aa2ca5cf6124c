"""What bad input gets: one clear sentence in the node, nothing written, nothing changed."""

import pytest
import torch
from prompts import (
    attention_map,
    concept,
    correct,
    invert,
    miniature,
    options,
    pairs,
    reference,
    same_picture_now,
    train,
)

from fmn_core.concepts.embedding_file import Embedding, save_embedding
from tools.comfy_server import NodeError

BAD_TRAINING = {
    "empty phrase": ({"phrase": "  "}, "empty text"),
    "phrase longer than the context": ({"phrase": "word " * 90}, "at most 75 tokens, got 90"),
    "phrase not in the prompt": (
        {"templates": "a photo of {}ish"},
        "'zebra' was not found in the prompt 'a photo of zebraish'",
    ),
    "template without a place": ({"templates": "a photo"}, "Expected one {} for the phrase"),
    "no steps": ({"method": "attention re-steering", "steps": 0}, "steps from 1 to 10000, got 0"),
    "closed form of everything": ({"train": "whole UNet"}, "closed form to train values"),
    "file name with a folder": ({"file_name": "../forget"}, "plain file name"),
    "file name with a backslash": ({"file_name": "a\\b"}, "plain file name"),
    "file name with a reserved character": ({"file_name": "what?"}, "plain file name"),
    "file name that is a device": ({"file_name": "con"}, "plain file name"),
    "hidden file": ({"file_name": ".hidden"}, "plain file name"),
    "learning rate far too high": (
        {
            "method": "attention re-steering",
            "learning_rate": 1.0,
            "steps": 60,
            "train": "whole UNet",
            "preservation": 0.0,
        },
        "finite",
    ),
}


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_bad_training(server, patches, picture_before, case):
    changes, message = BAD_TRAINING[case]
    with pytest.raises(NodeError) as caught:
        server.run(train(**changes))
    text = str(caught.value)
    assert message in text and "Traceback" not in text and "\n" not in text
    assert caught.value.kind == "validation" or caught.value.kind == "ForgetError"
    assert list(patches.iterdir()) == []
    assert same_picture_now(server, picture_before)


RESTEERING, VISUAL = {"method": "attention re-steering"}, {"method": "visual denoising"}
IMAGES = RESTEERING | {"images": ["ref.decode", 0], "vae": ["mini", 2]}
BAD_REFERENCES = {
    "images without a VAE": (RESTEERING | {"images": ["ref.decode", 0]}, "Expected a VAE"),
    "images under 8 pixels": (IMAGES | {"images": ["small", 0]}, "at least 8 x 8 pixels"),
    "an empty mask": (IMAGES | {"mask": ["zeros", 0]}, "zeros only"),
    "three masks for two images": (IMAGES | {"mask": ["three", 0]}, "one for each of 2 images, got 3"),
    "a mask without images": (RESTEERING | {"mask": ["ones", 0]}, "Expected images for the mask"),
    "pairs of another concept": (VISUAL | {"pairs": ["pairs", 0]}, "pairs of every concept, got none of zebra"),
    "noise levels in reverse": (VISUAL | {"options": ["options", 0]}, "noise levels 0 <= first_level < last_level"),
    "a phrase that is connected and one that is missing": (
        {"phrase": "embedding:nothing", "concepts": ["c", 0]},
        "found none for embedding:nothing",
    ),
}


@pytest.mark.parametrize("case", BAD_REFERENCES)
def test_bad_references(server, patches, picture_before, case):
    changes, message = BAD_REFERENCES[case]
    prompt = train(**changes) | reference() | options(first_level=0.8, last_level=0.2)
    prompt |= pairs(phrase="dog") | concept("c", phrases="dog") | bad_pictures()
    del prompt["pairs.show"]
    with pytest.raises(NodeError) as caught:
        server.run(prompt)
    text = str(caught.value)
    assert message in text and "\n" not in text and caught.value.kind == "ForgetError"
    assert list(patches.iterdir()) == [] and same_picture_now(server, picture_before)


def bad_pictures() -> dict:
    """Pictures and masks that fit nothing, as nodes "small", "zeros", "ones" and "three"."""
    small = {"width": 4, "height": 4, "batch_size": 1, "color": 0}
    white = {"width": 64, "height": 64, "batch_size": 3, "color": 0xFFFFFF}
    masks = {name: {"value": value, "width": 128, "height": 128} for name, value in (("zeros", 0.0), ("ones", 1.0))}
    return {
        "small": {"class_type": "EmptyImage", "inputs": small},
        "white": {"class_type": "EmptyImage", "inputs": white},
        "three": {"class_type": "ImageToMask", "inputs": {"image": ["white", 0], "channel": "red"}},
        **{name: {"class_type": "SolidMask", "inputs": inputs} for name, inputs in masks.items()},
    }


BAD_NAMES = {
    "missing": ("embedding:nothing", "found none for embedding:nothing"),
    "missing, in brackets": ("(embedding:nothing:1.3)", "found none for embedding:nothing"),
    "another width": ("embedding:wide", "vectors of width 96 for text encoder l, got 768 in embedding:wide"),
    "after words, another width": ("a embedding:wide, zebra", "got 768 in embedding:wide"),
    "not safetensors": ("embedding:broken", "found none for embedding:broken"),
    "no name": ("zebra embedding:", "Expected a name after 'embedding:'"),
    "a lone surrogate": ("embedding:\ud800", "lone surrogate"),
}


@pytest.fixture
def bad_embeddings(embeddings):
    save_embedding(Embedding({"l": torch.ones(2, 768)}), embeddings / "wide.safetensors")
    (embeddings / "broken.safetensors").write_bytes(b"hello")


@pytest.mark.parametrize("case", BAD_NAMES)
def test_embeddings_that_the_host_would_leave_out(server, patches, bad_embeddings, case):
    phrase, message = BAD_NAMES[case]
    with pytest.raises(NodeError) as caught:
        server.run(train(phrase=phrase))
    assert message in str(caught.value) and caught.value.kind == "ForgetError"
    with pytest.raises(NodeError) as caught:
        server.run(train(preserve_prompts=f"a picture of {phrase}"))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert list(patches.iterdir()) == []


BAD_INVERSIONS = {
    "a file name with a space": ({"file_name": "my concept"}, "letters, digits and . _ + - in the name"),
    "a file name with a bracket": ({"file_name": "my(concept)"}, "letters, digits and . _ + - in the name"),
    "a file name with a folder": ({"file_name": "../my"}, "plain file name"),
    "no words to start from": ({"words": " "}, "Expected words to start from, got none"),
    "images under 8 pixels": ({"images": ["small", 0]}, "at least 8 x 8 pixels"),
    "an empty mask": ({"mask": ["zeros", 0]}, "zeros only"),
    "three masks for two images": ({"mask": ["three", 0]}, "one for each of 2 images, got 3"),
    "an embedding of another width": (
        {"continue_from": "wide.safetensors"},
        "Choose an embedding made for this family",
    ),
    "an embedding that is none": ({"continue_from": "broken.safetensors"}, "broken.safetensors is corrupt"),
}


@pytest.mark.parametrize("case", BAD_INVERSIONS)
def test_bad_inversions(server, embeddings, bad_embeddings, picture_before, case):
    changes, message = BAD_INVERSIONS[case]
    with pytest.raises(NodeError) as caught:
        server.run(miniature() | reference() | bad_pictures() | invert(**changes))
    text = str(caught.value)
    assert message in text and "\n" not in text and caught.value.kind == "ForgetError"
    assert sorted(p.name for p in embeddings.iterdir()) == ["broken.safetensors", "wide.safetensors"]
    assert same_picture_now(server, picture_before)


BAD_CORRECTIONS = {
    "no word": ({"word": " "}, "Expected a word to correct"),
    "no contexts": ({"contexts": "\n"}, "at least one context in which 'apple' means something else"),
    "a context that names no embedding": ({"contexts": "embedding:nothing"}, "found none for embedding:nothing"),
    "a concept that was not inverted": ({"inverted": ["c", 0]}, "Expected one inverted concept, got 0"),
    "images under 8 pixels": ({"images": ["small", 0]}, "at least 8 x 8 pixels"),
    "a file name with a folder": ({"file_name": "a/b"}, "plain file name"),
}


@pytest.mark.parametrize("case", BAD_CORRECTIONS)
def test_bad_corrections(server, patches, picture_before, case):
    changes, message = BAD_CORRECTIONS[case]
    nodes = miniature() | reference() | bad_pictures() | concept("c")
    inverted = []

    def on_event(kind, data):
        if kind == "progress" and data.get("node") == "correct":
            inverted.append(data["value"])

    with pytest.raises(NodeError) as caught:
        server.run(nodes | correct(**changes), on_event)
    text = str(caught.value)
    assert message in text and "\n" not in text and caught.value.kind == "ForgetError"
    assert inverted == [] and list(patches.iterdir()) == []
    assert same_picture_now(server, picture_before)


@pytest.mark.parametrize("phrase", ["", "embedding:nothing"])
def test_bad_pairs(server, phrase):
    with pytest.raises(NodeError, match="got nothing|found none") as caught:
        server.run(miniature() | pairs(phrase=phrase))
    assert caught.value.kind == "ForgetError"


def test_no_clip(server):
    """A checkpoint without a text encoder gives CLIP = None; here the graph simply lacks the link."""
    prompt = train()
    del prompt["train"]["inputs"]["clip"]
    with pytest.raises(NodeError) as caught:
        server.run(prompt)
    assert caught.value.kind == "validation"


def test_map_of_a_phrase_that_is_not_in_the_prompt(server):
    with pytest.raises(NodeError, match="'zebra' was not found in the prompt 'a horse'"):
        server.run(attention_map(prompt="a horse", steps=1))

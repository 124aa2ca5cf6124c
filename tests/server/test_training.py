"""Every way to train, to invert and to correct, through the real server."""

import json

import pytest
import torch
from prompts import (
    ZEBRA,
    closed_form_options,
    concept,
    correct,
    invert,
    miniature,
    options,
    pairs,
    pictures,
    reference,
    sampled,
    train,
    uncached,
)
from safetensors import safe_open
from safetensors.torch import load_file

from fmn_core.patch.file import load_patch
from mini_sd.judge import classify, load_judge

CLOSED, RESTEERING, VISUAL = "closed form", "attention re-steering", "visual denoising"
BOTH = "re-steering and visual denoising"
WITH_OPTIONS = {
    "whole weights, Adam, cosine": (
        RESTEERING,
        {"weights": "full delta", "optimiser": "Adam", "schedule": "cosine", "drift_every": 2},
    ),
    "bf16, SGD, linear": (RESTEERING, {"precision": "bf16", "optimiser": "SGD", "schedule": "linear"}),
    "fp16, RAdam": (RESTEERING, {"precision": "fp16", "optimiser": "RAdam", "weight_decay": 0.0, "clip": 0.1}),
    "fp32, Adafactor, accumulation, uniform": (
        VISUAL,
        {"precision": "fp32", "optimiser": "Adafactor", "accumulation": 2, "visual_weighting": "uniform"},
    ),
    "AdamW, checkpointing, both losses": (
        BOTH,
        {"checkpointing": True, "attention_weight": 0.5, "first_level": 0.2, "last_level": 0.8, "drift_every": 0},
    ),
}
IMAGES = {"method": RESTEERING, "images": ["ref.decode", 0], "vae": ["mini", 2]}


def metadata(path, name):
    with safe_open(path, framework="pt") as f:
        return json.loads(f.metadata()[f"fmn.{name}"])


def report(outputs, node="train"):
    return "\n".join(outputs[node]["text"])


def judged(images):
    return classify(load_judge(), images.float() / 255)[0]


# The others take their time.
QUICK_OPTIONS = ("AdamW, checkpointing, both losses",)


@pytest.mark.parametrize(
    "case", [c if c in QUICK_OPTIONS else pytest.param(c, marks=pytest.mark.slow) for c in WITH_OPTIONS]
)
def test_methods_and_options(server, patches, case):
    method, changes = WITH_OPTIONS[case]
    text = report(server.run(train(method=method, options=["options", 0]) | options(**changes)))
    assert f"method: {'attention re-steering and visual denoising' if method == BOTH else method}" in text
    assert "steps: 3 (all steps)" in text and "matched 32 layers" in text
    assert ("drift of preserve prompts" in text) == (changes.get("drift_every") != 0)
    settings = metadata(patches / "forget_zebra.safetensors", "settings")
    kept = {k: v for k, v in changes.items() if k != "precision"}
    assert {k: settings[k] for k in kept} == kept
    factors = load_patch(patches / "forget_zebra.safetensors").factors.values()
    assert len(factors) == 32 and all(torch.isfinite(f.delta()).all() for f in factors)
    assert max(float(f.delta().abs().max()) for f in factors) > 0


# Both losses together train as each does alone.
@pytest.mark.parametrize(
    "method", [CLOSED, BOTH, *(pytest.param(m, marks=pytest.mark.slow) for m in (RESTEERING, VISUAL))]
)
def test_one_seed_one_file(server, patches, method):
    for name in ("a", "b"):
        server.run(train(method=method, file_name=name, options=["options", 0]) | options())
    assert (patches / "a.safetensors").read_bytes() == (patches / "b.safetensors").read_bytes()


def test_attack_rounds_are_reported_and_the_concept_stays_forgotten(server, patches):
    chosen = closed_form_options(attack_rounds=1, imagined_words=50)
    prompt = train(file_name="a", options=["options", 0]) | chosen | sampled("zebra", ["train", 0], ZEBRA, batch=3)
    outputs = server.run(prompt)
    assert "attacked in 1 round by 2 searches of 15 steps" in report(outputs)
    assert metadata(patches / "a.safetensors", "settings")["attack_rounds"] == 1
    assert len(metadata(patches / "a.safetensors", "concepts")) == 1
    assert "zebra" not in judged(pictures(server, outputs, "zebra"))


def test_a_mask_and_augmentation_change_what_is_learned_and_a_full_mask_does_not(server, patches):
    mask = {"mask": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 128, "height": 128}}}
    half = {"half": {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 64, "height": 32}}}
    copies = options(copies=3, crop=0.3, flip=True, bucket=128)
    runs = {
        "plain": train(**IMAGES, file_name="plain"),
        "full": train(**IMAGES, file_name="full", mask=["mask", 0]) | mask,
        "half": train(**IMAGES, file_name="half", mask=["half", 0]) | half,
        "copies": train(**IMAGES, file_name="copies", options=["options", 0]) | copies,
        "both": train(**IMAGES, file_name="both", mask=["half", 0], options=["options", 0]) | half | copies,
    }
    for prompt in runs.values():
        server.run(prompt | reference())
    found = {name: (patches / f"{name}.safetensors").read_bytes() for name in runs}
    assert found["full"] == found["plain"] and len(set(found.values())) == len(runs) - 1


def test_a_chain_of_two_and_the_nodes_own_phrase_in_closed_form(server, patches):
    chain = concept("a", phrases="zebra\nstriped horse") | concept("b", phrases="pizza", previous=["a", 0])
    prompt = train(phrase="guitar", concepts=["b", 0], preserve_prompts="horse\ndog\nrobot") | chain
    names = ("zebra", "pizza", "guitar", "horse")
    for name in names:
        prompt |= sampled(name, ["train", 0], f"a picture of a {name} in noto style", batch=3, steps=12)
    outputs = server.run(prompt)
    assert "forgets: zebra, striped horse; pizza; guitar" in report(outputs)
    phrases = [c["phrases"] for c in metadata(patches / "forget_zebra.safetensors", "concepts")]
    assert phrases == [["zebra", "striped horse"], ["pizza"], ["guitar"]]
    counts = {name: judged(pictures(server, outputs, name)).count(name) for name in names}
    assert counts["horse"] >= 2 and max(counts[n] for n in ("zebra", "pizza", "guitar")) <= 1, counts


@pytest.mark.parametrize("method", [BOTH, pytest.param(RESTEERING, marks=pytest.mark.slow)])
def test_a_chain_with_pictures_and_an_empty_phrase_by_gradient(server, patches, method):
    chain = concept("a", images=["ref.decode", 0]) | concept("b", phrases="noto", kind="style", previous=["a", 0])
    inputs = {"phrase": "", "method": method, "concepts": ["b", 0], "vae": ["mini", 2], "options": ["options", 0]}
    outputs = server.run(train(**inputs) | chain | reference() | options())
    assert "forgets: zebra; noto" in report(outputs) and "steps: 3" in report(outputs)


def test_pairs_are_the_same_again_and_train_like_those_made_while_training(server, patches):
    prompt = miniature() | pairs(seed=5, steps=20, phrase="dog")
    first = pictures(server, server.run(prompt), "pairs.show")
    again = uncached(prompt)
    second = pictures(server, server.run(again), next(k for k in again if k.endswith("pairs.show")))
    assert torch.equal(first, second) and first.shape == (1, 256, 256, 3)
    kept, zeroed = first[0].float().chunk(2)
    assert (kept - zeroed).abs().mean() > 5

    inputs = {"method": VISUAL, "phrase": "dog", "end_token": "all", "seed": 5, "options": ["options", 0]}
    server.run(train(**inputs, file_name="connected", pairs=["pairs", 0]) | prompt | options())
    server.run(train(**inputs, file_name="made") | options())
    assert (patches / "connected.safetensors").read_bytes() == (patches / "made.safetensors").read_bytes()


def test_an_inverted_concept_is_an_embedding_that_a_stock_prompt_names(server, embeddings):
    named = sampled("a", ["mini", 0], "a picture of a embedding:my_concept in noto style")
    without = sampled("b", ["mini", 0], "a picture of a in noto style")
    before = server.run(miniature() | named | without)
    prompt = miniature() | invert() | reference()
    prompt |= {"plot": {"class_type": "PreviewImage", "inputs": {"images": ["invert", 2]}}}
    prompt |= {"name": {"class_type": "PreviewAny", "inputs": {"source": ["invert", 1]}}}
    steps = []

    def on_event(kind, data):
        if kind == "progress" and data.get("node") == "invert":
            steps.append(data["value"])

    outputs = server.run(prompt, on_event)
    text = report(outputs, "invert")
    assert "2 vectors, 6 steps" in text and "write embedding:my_concept in a prompt" in text
    assert outputs["name"]["text"] == ["embedding:my_concept"] and max(steps) == 6
    assert pictures(server, outputs, "plot").shape == (1, 320, 512, 3)
    assert [p.name for p in embeddings.iterdir()] == ["my_concept.safetensors"]

    fresh = uncached(miniature() | named)
    after = pictures(server, server.run(fresh), next(k for k in fresh if fresh[k]["class_type"] == "PreviewImage"))
    ignored = pictures(server, before, "a")
    assert torch.equal(ignored, pictures(server, before, "b")) and not torch.equal(after, ignored)


def test_inversion_repeats_continues_and_starts_from_what_is_chosen(server, embeddings):
    starts = {
        "words": {},
        "again": {},
        "noise": {"start": "noise", "words": ""},
        "mean": {"start": "mean", "words": ""},
        "seed": {"seed": 1},
        "on": {"continue_from": "words.safetensors", "inversion_rate": 1e-4},
    }
    for name, changes in starts.items():
        server.run(miniature() | reference() | invert(file_name=name, **changes))
    found = {name: (embeddings / f"{name}.safetensors").read_bytes() for name in starts}
    assert found["words"] == found["again"] and len(set(found.values())) == len(starts) - 1


@pytest.mark.parametrize("method", [CLOSED, pytest.param(RESTEERING, marks=pytest.mark.slow)])
def test_an_inverted_concept_is_forgotten(server, patches, embeddings, method):
    prompt = train(phrase="", method=method, concepts=["invert", 0], vae=["mini", 2]) | invert() | reference()
    assert "forgets: an inverted concept" in report(server.run(prompt))
    [saved] = metadata(patches / "forget_zebra.safetensors", "concepts")
    assert saved.pop("embedding")["l"]["shape"] == [2, 96]
    assert saved == {"phrases": [], "kind": "object", "vectors": 2}


def test_an_embedding_is_forgotten_by_its_name(server, patches, embeddings):
    server.run(miniature() | invert(file_name="named") | reference())
    prompt = train(phrase="embedding:named") | sampled("a", ["train", 0], "a picture of a embedding:named")
    prompt |= sampled("b", ["mini", 0], "a picture of a embedding:named")
    outputs = server.run(prompt)
    assert "forgets: embedding:named" in report(outputs)
    assert not torch.equal(pictures(server, outputs, "a"), pictures(server, outputs, "b"))


def test_concept_correction_of_apple(server, patches):
    steps = []

    def on_event(kind, data):
        if kind == "progress" and data.get("node") == "correct":
            steps.append((data["value"], data["max"]))

    prompt = miniature() | reference("a picture of a red apple in noto style", 4) | correct()
    prompt |= sampled("pizza", ["correct", 0], "a picture of a pizza in noto style", batch=4, steps=12)
    outputs = server.run(prompt, on_event)
    text = report(outputs, "correct")
    assert "2 vectors, 6 steps" in text and "the dominant meaning of apple; led to green apple" in text
    assert "saved forget_me_not/correct_apple.safetensors" in text and "matched 16 layers" in text
    assert (6, 6) in steps and (4, 4) in steps
    assert judged(pictures(server, outputs, "pizza")).count("pizza") >= 3
    [saved] = metadata(patches / "correct_apple.safetensors", "concepts")
    assert saved["corrects"] == "apple" and saved["contexts"] == ["green apple"]


@pytest.mark.slow
def test_correction_takes_a_concept_that_was_inverted_already(server, patches, embeddings):
    nodes = miniature() | reference("a picture of a red apple in noto style") | invert(words="apple", file_name="")
    connected = correct(inverted=["invert", 0], file_name="connected")
    del connected["correct"]["inputs"]["images"], connected["correct"]["inputs"]["vae"]
    server.run(nodes | connected)
    server.run(miniature() | reference("a picture of a red apple in noto style") | correct(file_name="alone"))
    assert (patches / "connected.safetensors").read_bytes() == (patches / "alone.safetensors").read_bytes()
    assert list(embeddings.iterdir()) == []


def test_a_picture_after_all_trainings_is_the_picture_before(server, patches):
    """One MODEL goes through every method and precision and then draws what it drew."""
    prompt = miniature() | sampled("a", ["mini", 0], ZEBRA)
    before = pictures(server, server.run(prompt), "a")
    for precision in ("fp16", "as loaded"):
        server.run(train(method=BOTH, options=["options", 0], file_name="") | options(precision=precision))
    fresh = miniature() | uncached(sampled("a", ["mini", 0], ZEBRA))
    name = next(k for k in fresh if fresh[k]["class_type"] == "PreviewImage")
    assert torch.equal(pictures(server, server.run(fresh), name), before)


def test_a_loss_that_is_lost_later_keeps_what_was_learned(server, patches):
    """At a rate at which training diverges after its first steps: the report says so, and the file holds numbers only."""
    inputs = {"method": "attention re-steering", "learning_rate": 0.03, "steps": 40, "preservation": 0.0}
    outputs = server.run(train(**inputs, train="whole UNet", options=["options", 0]) | options(drift_every=0))
    text = "\n".join(outputs["train"]["text"])
    assert (
        "(loss not finite)" in text and "warning: The loss was not finite at step" in text and "kept the state" in text
    )
    tensors = load_file(patches / "forget_zebra.safetensors").values()
    assert all(torch.isfinite(v).all() for v in tensors) and any(v.abs().max() > 0.01 for v in tensors)

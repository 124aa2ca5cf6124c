"""Forget Concept and Compare through the real server."""

import re

import pytest
import torch
from prompts import HORSE, ZEBRA, closed_form_options, concept, miniature, pictures, sampled, train

from fmn_core.patch.file import load_patch
from mini_sd.judge import classify, load_judge

FORGET = {
    "model": ["mini", 0], "clip": ["mini", 1], "forget": "zebra", "kind": "object", "draw_instead": "", "keep": "",
    "keep_strength": 1.0, "save_as": "forget_{phrase}",
}  # fmt: skip
COMPARE = {
    "before": ["mini", 0], "after": ["forget", 0], "clip": ["mini", 1], "vae": ["mini", 2], "prompts": f"{ZEBRA}\n{HORSE}",
    "seed": 1, "pictures": 1, "steps": 8, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "width": 0, "height": 0,
}  # fmt: skip


def forget(**changes):
    """A prompt that forgets; the node is called "forget", and its report is shown in node "said"."""
    return miniature() | {
        "forget": {"class_type": "FMN_ForgetConcept", "inputs": FORGET | changes},
        "said": {"class_type": "PreviewAny", "inputs": {"source": ["forget", 2]}},
    }


def compare(**changes):
    return {
        "compare": {"class_type": "FMN_Compare", "inputs": COMPARE | changes},
        "grid": {"class_type": "PreviewImage", "inputs": {"images": ["compare", 0]}},
    }


def report(outputs):
    return outputs["said"]["text"][0]


def test_a_concept_is_gone_and_the_verdict_says_so(server, patches):
    outputs = server.run(forget() | sampled("a", ["forget", 0], ZEBRA) | sampled("b", ["forget", 0], HORSE))
    assert report(outputs).startswith("zebra: gone. Other prompts: hardly moved.\n\n")
    seen = classify(load_judge(), torch.cat([pictures(server, outputs, n) for n in "ab"]).float() / 255)[0]
    assert seen[0] != "zebra" and seen[1] == "horse"
    patch = load_patch(patches / "forget_zebra.safetensors")
    assert patch.concepts[0]["phrases"] == ["zebra"] and "preview" not in patch.about


def test_where_less_is_kept_the_verdict_gives_figures_alone(server, patches):
    outputs = server.run(forget(options=["options", 0]) | closed_form_options(everyday_captions=False))
    assert re.match(r"zebra: \d+% of the way is left\. Other prompts: moved by \d+%\.", report(outputs))


def test_its_patch_is_that_of_the_old_node(server, patches):
    server.run(forget(save_as="new", rank=16))
    server.run(train(phrase="zebra", preserve_prompts="", rank=16, file_name="old"))
    assert (patches / "new.safetensors").read_bytes() == (patches / "old.safetensors").read_bytes()


def test_what_to_draw_instead(server, patches):
    outputs = server.run(forget(draw_instead="horse") | sampled("a", ["forget", 0], ZEBRA))
    assert classify(load_judge(), pictures(server, outputs, "a").float() / 255)[0] == ["horse"]


def test_with_a_vae_the_test_prompt_is_drawn_and_is_the_files_picture(server, patches):
    outputs = server.run(forget(vae=["mini", 2], test_prompt="a picture of a {phrase} in noto style"))
    before, after = ([server.image(e) for e in outputs["forget"][f"fmn_{when}"]] for when in ("before", "after"))
    assert before[0].size == after[0].size == (128, 128) and before[0].tobytes() != after[0].tobytes()
    assert load_patch(patches / "forget_zebra.safetensors").about["preview"].startswith("data:image/jpeg;base64,")


def test_connected_concepts_and_options(server, patches):
    extra = concept("dog", phrases="dog") | closed_form_options(target="substitute", substitute="house")
    outputs = server.run(forget(forget="", concepts=["dog", 0], options=["options", 0]) | extra)
    assert report(outputs).startswith("dog: ")
    settings = load_patch(patches / "forget_dog.safetensors").settings
    assert settings["target"] == "substitute" and settings["substitute"] == "house"


def test_compare_draws_what_the_stock_nodes_draw(server, patches):
    stock = sampled("a", ["mini", 0], ZEBRA) | sampled("b", ["forget", 0], ZEBRA)
    outputs = server.run(
        forget() | compare(prompts="a picture of a {phrase} in noto style", forget_patch=["forget", 1]) | stock
    )
    for when, name in (("before", "a"), ("after", "b")):
        [entry] = outputs["compare"][f"fmn_{when}"]
        ours, theirs = server.image(entry).convert("RGB"), server.image(outputs[name]["images"][0]).convert("RGB")
        assert ours.tobytes() == theirs.tobytes()


def test_compare_shows_every_prompt_and_seed(server, patches):
    outputs = server.run(forget() | compare(pictures=2, steps=2))
    assert len(outputs["compare"]["fmn_before"]) == len(outputs["compare"]["fmn_after"]) == 4
    assert server.image(outputs["grid"]["images"][0]).size[0] > 480


BAD = {
    "nothing to forget": ({"forget": " "}, "phrase"),
    "a phrase longer than the context": ({"forget": "word " * 90}, "Expected"),
    "a line to keep that names the concept": ({"keep": "a photo of a zebra"}, "lines to keep"),
    "a test prompt without the phrase": ({"vae": ["mini", 2], "test_prompt": "a horse"}, "names what is forgotten"),
    "a file in another folder": ({"save_as": "../zebra"}, "file name"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_sentence_and_nothing_is_written(server, patches, case):
    changes, words = BAD[case]
    with pytest.raises(RuntimeError, match=words) as caught:
        server.run(forget(**changes))
    assert "Traceback" not in str(caught.value).splitlines()[0]
    assert list(patches.glob("*")) == []


def test_compare_refuses_prompts_that_it_cannot_draw(server):
    for prompts, words in (("\n", "1 to 64 pictures"), ("a {phrase}", "Expected a phrase")):
        with pytest.raises(RuntimeError, match=words):
            server.run(miniature() | compare(prompts=prompts, after=["mini", 0]))

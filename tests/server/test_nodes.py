"""Every node through the real server."""

import pytest
import torch
from prompts import HORSE, ZEBRA, apply, attention_map, miniature, pictures, sampled, train

from mini_sd.judge import classify, load_judge

NODES = {
    "FMN_ForgetConcept",
    "FMN_Compare",
    "FMN_LoadMiniature",
    "FMN_LoadMiniatureFlux",
    "FMN_EncodePrompt",
    "FMN_ZeroConceptAttention",
    "FMN_TrainForgetPatch",
    "FMN_ApplyForgetPatch",
    "FMN_Concept",
    "FMN_ConceptPreset",
    "FMN_ConceptAttentionMap",
    "FMN_ConceptCorrection",
    "FMN_InvertConcept",
    "FMN_ClosedFormOptions",
    "FMN_TrainingOptions",
    "FMN_VisualDenoisingPairs",
    "FMN_AttentionMask",
    "FMN_FaceMask",
    "FMN_ForgetReport",
    "FMN_ClearForgetCache",
    "FMN_MergeForgetPatches",
    "FMN_ShrinkForgetPatch",
    "FMN_ForgetPatchInfo",
    "FMN_SaveForgetPatch",
    "FMN_GatedForgetPatch",
    "FMN_InstallPatchEmbedding",
    "FMN_ScheduleForgetPatch",
    "FMN_LoadImageTextModel",
    "FMN_ClipScore",
    "FMN_ForgetAccuracies",
    "FMN_MScore",
    "FMN_PictureDistance",
    "FMN_AttackForgetPatch",
}


MAIN = {
    "FMN_ForgetConcept",
    "FMN_ApplyForgetPatch",
    "FMN_Compare",
    "FMN_ForgetReport",
    "FMN_LoadMiniature",
    "FMN_LoadMiniatureFlux",
}


def judged(images):
    return classify(load_judge(), images.float() / 255)


@pytest.fixture(scope="module")
def info(server):
    return server.object_info()


def test_all_nodes_are_there_with_tooltips(info):
    mine = {k: v for k, v in info.items() if k.startswith("FMN_")}
    assert set(mine) == NODES
    for name, node in mine.items():
        assert node["category"].split("/")[0] == "Forget-Me-Not" and node["description"], name
        inputs = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        assert [i for i, spec in inputs.items() if not (len(spec) > 1 and spec[1].get("tooltip"))] == [], name
        assert len(node["output_tooltips"]) == len(node["output"]) and all(node["output_tooltips"]), name
        assert not node["display_name"].startswith("FMN")
    assert {name for name, node in mine.items() if "/" not in node["category"]} == MAIN


def test_miniature_draws_with_the_stock_sampler(server):
    prompt = (
        miniature()
        | sampled("a", ["mini", 0], ZEBRA, batch=4, steps=12)
        | sampled("b", ["mini", 0], "a picture of santa claus in fluent style", batch=4, steps=12)
    )
    outputs = server.run(prompt)
    for name, concept, style in (("a", "zebra", "noto"), ("b", "santa claus", "fluent")):
        images = pictures(server, outputs, name)
        assert images.shape == (4, 128, 128, 3)
        concepts, styles = judged(images)
        assert concepts.count(concept) >= 3 and styles.count(style) >= 3, (concepts, styles)


def test_closed_form_forgets_and_every_way_to_apply_it_gives_the_same_picture(server, patches):
    trained = train() | sampled("out", ["train", 0], ZEBRA, batch=4, steps=12)
    trained |= sampled("kept", ["train", 0], HORSE, batch=4, steps=12) | sampled(
        "before", ["mini", 0], ZEBRA, batch=4, steps=12
    )
    trained |= apply(forget_patch=["train", 1])
    trained |= sampled("from_patch", ["apply", 0], ZEBRA, batch=4, steps=12)
    outputs = server.run(trained)
    report = "\n".join(outputs["train"]["text"])
    assert "matched 16 layers" in report and "saved forget_me_not/forget_zebra.safetensors" in report
    assert [p.name for p in patches.iterdir()] == ["forget_zebra.safetensors"]
    assert judged(pictures(server, outputs, "before"))[0].count("zebra") >= 3
    assert judged(pictures(server, outputs, "out"))[0].count("zebra") == 0
    assert judged(pictures(server, outputs, "kept"))[0].count("horse") >= 3

    file = "forget_me_not/forget_zebra.safetensors"
    again = miniature()
    again["stock"] = {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {"model": ["mini", 0], "lora_name": file, "strength_model": 1.0},
    }
    again |= apply(file, "ours")
    again |= sampled("a", ["stock", 0], ZEBRA, batch=4, steps=12) | sampled("b", ["ours", 0], ZEBRA, batch=4, steps=12)
    again["text"] = {"class_type": "PreviewAny", "inputs": {"source": ["ours", 1]}}
    second = server.run(again)
    assert "matched 16 of 16 layers" in "".join(second["text"]["text"])
    wanted = pictures(server, outputs, "out")
    for images in (
        pictures(server, second, "a"),
        pictures(server, second, "b"),
        pictures(server, outputs, "from_patch"),
    ):
        assert torch.equal(images, wanted)


def test_patch_strength_zero_changes_nothing(server, patches):
    prompt = train(file_name="") | sampled("a", ["mini", 0], ZEBRA) | sampled("b", ["apply", 0], ZEBRA)
    prompt |= apply(strength=0.0, forget_patch=["train", 1])
    outputs = server.run(prompt)
    assert torch.equal(pictures(server, outputs, "a"), pictures(server, outputs, "b"))
    assert list(patches.iterdir()) == []


def test_resteering_with_images_shows_progress(server, patches):
    prompt = train(method="attention re-steering", steps=6, images=["ref.decode", 0], vae=["mini", 2]) | sampled(
        "ref", ["mini", 0], ZEBRA, batch=2
    )
    prompt["plot"] = {"class_type": "PreviewImage", "inputs": {"images": ["train", 2]}}
    steps = []

    def on_event(kind, data):
        if kind == "progress" and data.get("node") == "train":
            steps.append(data["value"])

    outputs = server.run(prompt, on_event)
    assert max(steps) == 6
    assert "steps: 6" in "\n".join(outputs["train"]["text"]) and "matched 32 layers" in "\n".join(
        outputs["train"]["text"]
    )
    assert pictures(server, outputs, "plot").shape == (1, 320, 512, 3)
    assert (patches / "forget_zebra.safetensors").exists()


def test_an_existing_file_is_never_overwritten(server, patches):
    server.run(train(phrase="zebra"))
    first = (patches / "forget_zebra.safetensors").read_bytes()
    server.run(train(phrase="dog"))
    assert (patches / "forget_zebra.safetensors").read_bytes() == first
    assert sorted(p.name for p in patches.iterdir()) == ["forget_zebra.safetensors", "forget_zebra_00002_.safetensors"]


def test_attention_map_is_a_picture(server):
    image = pictures(server, server.run(attention_map()), "show")
    assert image.shape == (1, 128, 128, 3) and image.float().std() > 5

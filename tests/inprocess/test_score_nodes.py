"""The score nodes on the host's own objects, inside this process: what they measure, leave alone and refuse."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from forget_me_not.nodes.adapter.model import ComfyModel
from forget_me_not.nodes.host import apply_patch
from forget_me_not.nodes.loaders.load_image_text import LoadImageTextModel
from forget_me_not.nodes.scores.attack_patch import AttackForgetPatch
from forget_me_not.nodes.scores.clip_score import ClipScore
from forget_me_not.nodes.scores.forget_accuracies import ForgetAccuracies
from forget_me_not.nodes.scores.m_score import MScoreNode
from forget_me_not.nodes.scores.picture_distance import PictureDistance
from inprocess.interrupting import interrupted
from inprocess.random_clip import clip_folder, run
from model_state import assert_untouched, state

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.concepts.concept import make_concept
from fmn_core.errors import ForgetError
from mini_sd.concepts import CONCEPT_NAMES, STYLE_NAMES, drawn_styles
from mini_sd.generate import generate

CONCEPTS = ("frog", "umbrella", "ghost", "snowman")
QUICK = {"tokens": 1, "inversion_steps": 4, "warmup": 1, "inversion_rate": 2e-2, "batch": 2, "seed": 0}


@pytest.fixture(scope="module")
def image_text():
    with torch.inference_mode():
        return LoadImageTextModel.execute("miniature").args[0]


@pytest.fixture(scope="module")
def pictures(miniature):
    """Two pictures of each of CONCEPTS, in their order."""
    prompts = [f"a picture of a {c} in {s} style" for c in CONCEPTS for s in drawn_styles(c)[:2]]
    return prompts, generate(*miniature, prompts, list(range(50000, 50000 + len(prompts))), steps=12)


@pytest.fixture(scope="module")
def forgetting(miniature):
    """MODEL that forgot the frog."""
    adapter = ComfyModel(*miniature[:2])
    with torch.inference_mode(False):
        concept = make_concept(adapter, "frog")
        patch = forget_closed_form(adapter, [concept])
    return apply_patch(miniature[0], patch, 1.0)[0]


def test_the_miniatures_model_knows_its_pictures(image_text, pictures):
    prompts, images = pictures
    scores, value, report = run(ClipScore, images=images, text="\n".join(prompts), image_text=image_text)
    other = run(ClipScore, images=images, text="\n".join(reversed(prompts)), image_text=image_text)[1]
    assert value > 0.6 > other + 0.3
    assert scores[0]["score"] == "CLIP score" and scores[0]["low"] <= value == scores[0]["value"] <= scores[0]["high"]
    assert report.startswith("CLIP score: ") and "8 pictures, judged by miniature" in report


def test_scores_grow_and_what_came_is_not_changed(image_text, pictures):
    images, came = pictures[1][:2], [{"score": "mine", "value": 1, "low": None, "high": None, "note": ""}]
    inputs = {"images": images, "text": "a frog", "image_text": image_text, "label": "after", "scores": came}
    scores = run(ClipScore, **inputs)[0]
    assert [s["score"] for s in scores] == ["mine", "CLIP score, after"] and len(came) == 1
    json.dumps(scores, allow_nan=False)


def test_accuracies_of_a_model_that_forgot_nothing(image_text, pictures):
    images = pictures[1]
    others = "\n".join(c for c in CONCEPTS[1:] for _ in range(2))
    inputs = {"forgotten": images[:2], "concept": "frog", "labels": "\n".join(CONCEPT_NAMES), "image_text": image_text}
    scores, report = run(ForgetAccuracies, synonyms=images[:2], others=images[2:], other_labels=others, **inputs)
    found = {s["score"]: s["value"] for s in scores}
    assert found == {"UA": 0, "UA of synonyms": 0, "IRA": 1, "H_o": 0} and "zero-shot by miniature among 34" in report
    scores, report = run(ForgetAccuracies, **inputs | {"forgotten": images[2:]})
    assert [(s["score"], s["value"]) for s in scores] == [("UA", 1)]
    assert report.endswith("no H_o: connect synonyms and others")


def test_accuracies_are_those_of_their_definitions(image_text, pictures):
    images = pictures[1]
    scores, _ = run(
        ForgetAccuracies,
        forgotten=images[1:5],  # one frog, three others
        concept="frog",
        labels="\n".join(CONCEPTS),
        image_text=image_text,
        synonyms=images[0:4],  # two frogs, two umbrellas
        others=images[2:6],  # two umbrellas, two ghosts
        other_labels="ghost",
    )
    values = [s["value"] for s in scores]
    assert values[:3] == [0.75, 0.5, 0.5] and values[3] == pytest.approx(3 / (1 / 0.75 + 1 / 0.5 + 1 / 0.5))


def test_what_is_of_another_kind_is_judged_among_its_own_labels(image_text, pictures):
    asked = [drawn_styles(c)[k] for c in CONCEPTS for k in range(2)]
    inputs = {"forgotten": pictures[1], "concept": "frog", "labels": "\n".join(CONCEPTS), "image_text": image_text}
    inputs |= {"cross": pictures[1], "cross_choices": "\n".join(STYLE_NAMES)}
    node = ForgetAccuracies
    scores, report = run(node, **inputs, cross_labels="\n".join(asked))
    assert [s["score"] for s in scores] == ["UA", "CRA"] and scores[1]["value"] >= 0.75
    assert "among 4 labels" in report
    swapped = run(node, **inputs, cross_labels="\n".join(reversed(asked)))[0]
    assert swapped[1]["value"] < scores[1]["value"]
    refused(node, "Expected for CRA one label", **inputs, cross_labels="frog")


@pytest.mark.parametrize("measure", ["FID", "KID", "CMMD", "drift"])
def test_distance_of_pictures(image_text, pictures, measure):
    images = pictures[1]
    node, inputs = PictureDistance, {"measure": measure, "image_text": image_text}
    scores, same, _ = run(node, before=images[:4], after=images[:4].clone(), **inputs)
    _, far, report = run(node, before=images[:4], after=images[4:], **inputs)
    assert same == pytest.approx(0, abs=1e-4) or (measure == "KID" and same < 0)
    assert far > max(same, 0) and scores[0]["score"] == measure and "4 and 4 pictures" in report


@pytest.mark.slow
def test_m_score_finds_the_name_and_the_models_stay(image_text, miniature, forgetting, pictures):
    model, clip, vae = miniature
    before, patches = loaded_state(model, clip), dict(forgetting.patches)
    inputs = {"clip": clip, "vae": vae, "images": pictures[1][:2], "phrase": "frog", "kind": "object"} | QUICK
    inputs |= {"inversion_steps": 40, "warmup": 4, "batch": 4, "inversion_rate": 5e-2}
    found = run(MScoreNode, model_before=model, model_after=forgetting, image_text=image_text, **inputs)
    assert_untouched_after_reload(model, clip, before)
    assert forgetting.patches.keys() == patches.keys()
    scores, first, second, report = found
    assert [s["value"] for s in scores] == [first, second] and first != second
    # The name of another thing comes as near as 0.72 to the frog's, a random vector as 0.6.
    assert 0.75 < first <= 1 and -1 <= second <= 1
    assert "the miniature's text projection" in report and "loss after, first and last fifth" in report


def loaded_state(model, clip):
    """Weights after MODEL is loaded as the next sampling would, which takes a clone's patch off."""
    import comfy.model_management

    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
    return state(model, clip)


def assert_untouched_after_reload(model, clip, before):
    loaded_state(model, clip)
    assert_untouched(model, clip, before)


def test_m_score_of_a_model_against_itself(miniature, pictures):
    model, clip, vae = miniature
    inputs = {"clip": clip, "vae": vae, "images": pictures[1][:2], "phrase": "frog", "kind": "object"} | QUICK
    scores, first, second, report = run(MScoreNode, model_before=model, model_after=model, **inputs)
    assert first == second and math.isfinite(first) and "CLIP's pooled output" in report
    assert scores[0]["low"] <= first <= scores[0]["high"]


def attack_inputs(miniature, pictures, **changes):
    inputs = {"model": miniature[0], "clip": miniature[1], "vae": miniature[2], "images": pictures[1][:2]}
    inputs |= {"phrase": "frog", "kind": "object", "attack": "tokens", "steps": 3, "batch": 2, "tokens": 0}
    return inputs | {"candidates": 3, "seed": 0, "file_name": ""} | changes


def test_token_attack_gives_words_that_a_prompt_can_say(miniature, forgetting, pictures):
    before = loaded_state(*miniature[:2])
    inputs = attack_inputs(miniature, pictures, model=forgetting, tokens=2)
    concept, found, plot, report = run(AttackForgetPatch, **inputs)
    assert_untouched_after_reload(*miniature[:2], before)
    assert len(found.split()) == 2 and concept[0].phrases == [found] and f"found the text: {found}" in report
    assert plot.shape[-1] == 3 and "tokens attack: 3 steps of 2 draws" in report
    assert run(AttackForgetPatch, **inputs)[1] == found


def test_embedding_attack_saves_what_a_prompt_can_name(miniature, forgetting, pictures, tmp_path, monkeypatch):
    import folder_paths

    extensions = folder_paths.folder_names_and_paths["embeddings"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(tmp_path)], extensions))
    folder_paths.filename_list_cache.pop("embeddings", None)
    before = loaded_state(*miniature[:2])
    inputs = attack_inputs(miniature, pictures, model=forgetting, attack="embedding", file_name="frog_attack")
    concept, found, _, report = run(AttackForgetPatch, **inputs)
    folder_paths.filename_list_cache.pop("embeddings", None)
    assert_untouched_after_reload(*miniature[:2], before)
    assert found == "embedding:frog_attack" and (tmp_path / "frog_attack.safetensors").is_file() and found in report
    assert tuple(concept[0].embedding["l"].shape) == (1, 96) and concept[0].phrases == []


@pytest.mark.parametrize("attack", ["embedding", "tokens"])
def test_an_interrupted_attack_leaves_everything_as_it_was(miniature, pictures, monkeypatch, attack):
    before = loaded_state(*miniature[:2])

    with interrupted(monkeypatch):
        run(AttackForgetPatch, **attack_inputs(miniature, pictures, attack=attack))
    assert_untouched(*miniature[:2], before)


def test_a_local_clip_is_listed_and_gives_its_own_features(folders, pictures):
    wanted = clip_folder(folders / "small")
    node, images = LoadImageTextModel, pictures[1][:3]
    assert node.INPUT_TYPES()["required"]["model_name"][1]["options"] == ["miniature", "small"]
    [model] = run(node, model_name="small")
    texts, seen = model.texts(["a frog", "a very long text " * 60]), model.images(images)
    assert model.name == "small" and texts.shape == (2, 8) and seen.shape == (3, 8)
    for features in (texts, seen):
        torch.testing.assert_close(features.norm(dim=1), torch.ones(len(features)))
    with torch.no_grad():
        from transformers import CLIPProcessor

        processor = CLIPProcessor.from_pretrained(str(folders / "small"))
        pixels = (images * 255).round().byte().numpy()
        inputs = processor(
            text=["a frog"], images=list(pixels), return_tensors="pt", padding="max_length", max_length=77
        )
        output = wanted(**inputs)
    torch.testing.assert_close(texts[:1], output.text_embeds, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(seen, output.image_embeds, atol=2e-2, rtol=0)
    assert run(ClipScore, images=images, text="a frog", image_text=model)[1] == pytest.approx(
        float((output.image_embeds @ output.text_embeds.T).mean()), abs=2e-2
    )


def refused(node, message, **inputs):
    with pytest.raises(ForgetError, match=message):
        run(node, **inputs)


def test_what_judging_nodes_refuse(image_text, pictures):
    images = pictures[1][:4]
    clip, accuracies, distance = (
        ClipScore,
        ForgetAccuracies,
        PictureDistance,
    )
    good = {"images": images, "text": "a frog", "image_text": image_text}
    refused(clip, "a text that the pictures should fit", **good | {"text": " \n"})
    refused(clip, "one for each of 4 pictures, got 2", **good | {"text": "a\nb"})
    refused(clip, "at least one picture", **good | {"images": images[:0]})
    refused(clip, "not numbers", **good | {"images": images * float("nan")})
    refused(clip, "RGB images", **good | {"images": images[..., :1]})
    refused(clip, "an image-text model, got str", **good | {"image_text": "miniature"})
    refused(clip, "scores with a name and a number", **good | {"scores": [{"value": 1}]})
    good = {"forgotten": images, "concept": "frog", "labels": "ghost", "image_text": image_text}
    refused(accuracies, "the label of the forgotten concept", **good | {"concept": " "})
    refused(accuracies, "two different labels", **good | {"labels": ""})
    refused(accuracies, "cat, which labels does not list", **good | {"others": images, "other_labels": "cat"})
    refused(accuracies, "got 0 for 4 pictures", **good | {"others": images})
    refused(accuracies, "got 2 for 4", **good | {"others": images, "other_labels": "ghost\nghost"})
    good = {"before": images, "after": images, "measure": "CMMD", "image_text": image_text}
    refused(distance, "a measure of FID", **good | {"measure": "LPIPS"})
    refused(distance, "an image-text model for CMMD", **good | {"image_text": None})
    refused(distance, "two pictures or more", **good | {"after": images[:1]})
    refused(distance, "one size on both sides", **good | {"measure": "drift", "after": images[:2]})


def test_what_searching_nodes_refuse(miniature, pictures, image_text, folders):
    model, clip, vae = miniature
    before = loaded_state(model, clip)
    attack, m_score = AttackForgetPatch, MScoreNode
    good = attack_inputs(miniature, pictures)
    refused(attack, "the phrase that was forgotten", **good | {"phrase": " "})
    refused(attack, "an attack of embedding, tokens", **good | {"attack": "luck"})
    refused(attack, "steps from 1", **good | {"steps": 0})
    refused(attack, "a plain file name", **good | {"file_name": "../x"})
    refused(attack, "Expected a CLIP, got none", **good | {"clip": None})
    refused(attack, "a UNet with cross-attention", **good | {"model": SimpleNamespace(model=None)})
    refused(attack, "Expected a VAE", **good | {"vae": None})
    refused(attack, "at least one picture", **good | {"images": pictures[1][:0]})
    good = {"model_before": model, "model_after": model, "clip": clip, "vae": vae, "images": pictures[1][:2]}
    good |= {"phrase": "frog", "kind": "object"} | QUICK
    refused(m_score, "a phrase of 1 to", **good | {"phrase": ""})
    refused(m_score, "tokens from 1", **good | {"tokens": 0})
    refused(m_score, "scores with a name", **good | {"scores": ["x"]})
    clip_folder(folders / "small")
    [other] = run(LoadImageTextModel, model_name="small")
    refused(m_score, "can take this CLIP's vectors, got 'small'", **good | {"image_text": other})
    assert_untouched_after_reload(model, clip, before)

"""What nodes do with patches and pictures: merging, shrinking, applying, scores, reports."""

from __future__ import annotations

import torch

from tests import prompts

from ..world import FLOAT32, HORSE, RESTEER, ZEBRA, deltas
from .registry import case


@case
def merge(w):
    one, two = w.train()[1], w.train(phrase="red apple")[1]
    found = {}
    for method in ("fusion", "sum", "side by side"):
        merged, _report = w.nodes.MergeForgetPatches.execute(
            clip=w.clip, patches="", method=method, rank=64, file_name="", patch_1=one, patch_2=two
        ).args
        found |= deltas(merged, method)
        model = w.nodes.ApplyForgetPatch.execute(w.model, "", 1.0, merged).args[0]
        found[f"{method}.picture"] = w.draw(model)
        if method == "side by side":
            positive, negative, _said = w.gated(merged, w.encode(ZEBRA), w.encode(""))
            found["gated"] = w.sample(w.model, positive, negative)
    return found


@case
def merge_float32(w):
    """A patch that was solved on the card, with one from the CPU, as from a file."""
    one, two = w.train(options=w.closed_form_options(precision=FLOAT32))[1], w.train(phrase="red apple")[1]
    found = {}
    for method in ("fusion", "sum", "side by side"):
        merged, _report = w.nodes.MergeForgetPatches.execute(
            clip=w.clip, patches="", method=method, rank=64, file_name="", patch_1=one, patch_2=two
        ).args
        found |= deltas(merged, method)
    return found


@case
def float32_patch_elsewhere(w):
    """Everything that takes a patch, with one that was solved on the card."""
    model, patch, *_ = w.train(
        options=w.closed_form_options(precision=FLOAT32),
        train="keys and values",
        file_name="fake_gpu_float32",
    )
    smaller, _said = w.nodes.ShrinkForgetPatch.execute(
        patch_file="", rank=2, tolerance=0.01, precision="fp16", file_name="", forget_patch=patch
    ).args
    w.nodes.SaveForgetPatch.execute("", "", "", "", "", "fp16", True, "fake_gpu_saved", forget_patch=patch)
    w.nodes.ForgetPatchInfo.execute("", forget_patch=patch, model=model).args[0]
    positive, negative, _report = w.gated(patch, w.encode(ZEBRA), w.encode(""))
    return {**deltas(smaller), "gated": w.sample(w.model, positive, negative)}


@case
def apply_and_info(w):
    patch = w.train(file_name="")[1]
    model, report = w.nodes.ApplyForgetPatch.execute(w.model, "", 0.8, patch).args
    text = w.nodes.ForgetPatchInfo.execute("", forget_patch=patch, model=model).args[0]
    smaller, _said = w.nodes.ShrinkForgetPatch.execute(
        patch_file="", rank=2, tolerance=0.01, precision="fp16", file_name="", forget_patch=patch
    ).args
    assert "the same base" in text, text
    twice, _ = w.nodes.ApplyForgetPatch.execute(model, "", 1.0, smaller).args
    picture = w.draw(model)
    # on a model that has a patch already, which is loaded and patched in place
    again = w.train(model=model, clip=w.clip, phrase="horse")[1]
    return {**deltas(smaller), "picture": picture, "twice": w.draw(twice), **deltas(again, "again"), "report": report}


@case
def train_on_patched(w):
    patch = w.train()[1]
    model = w.nodes.ApplyForgetPatch.execute(w.model, "", 1.0, patch).args[0]
    before = w.draw(model, HORSE)
    resteered = w.train(model=model, phrase="horse", method=RESTEER)[1]
    after = w.draw(model, HORSE)
    assert torch.equal(before, after), "the patched model draws otherwise after a training"
    plain = w.draw(w.model, HORSE)
    return {**deltas(resteered), "after": after, "plain": plain}


@case
def scores(w):
    images = w.pictures()
    found = {}
    text = "a picture of a zebra in noto style"
    found["clip"] = torch.tensor(
        w.nodes.ClipScore.execute(images=images[:2], text=text, image_text=w.image_text).args[1]
    )
    rows, _report = w.nodes.ForgetAccuracies.execute(
        forgotten=images[:2], concept="zebra", labels="zebra\nhorse\nfrog\numbrella\nred apple", image_text=w.image_text, synonyms=images[:2],
        others=images[4:], other_labels="frog\nfrog\numbrella\numbrella",
    ).args  # fmt: skip
    found["accuracies"] = torch.tensor([r["value"] for r in rows])
    for measure in ("CMMD", "drift", "FID", "KID"):
        try:
            found[measure] = torch.tensor(
                w.nodes.PictureDistance.execute(
                    before=images[:4], after=images[4:], measure=measure, image_text=w.image_text
                ).args[1]
            )
        except Exception as error:
            if "torchmetrics" not in str(error):
                raise
    return found


@case
def report(w):
    images = w.pictures()
    patch = w.train(method=RESTEER)[1]
    inputs = prompts.attention_map()["map"]["inputs"] | {"model": w.model, "clip": w.clip}
    shown = w.nodes.ConceptAttentionMap.execute(**inputs).args[0]
    figure, _said = w.nodes.ForgetReport.execute(images[:1], images[1:2], patch, None, shown, shown, "").args
    return {"figure": figure}

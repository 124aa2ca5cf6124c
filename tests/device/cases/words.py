"""Inversion, correction and attacks: gradients through the text encoder."""

from __future__ import annotations

import torch

from tests import prompts

from ..world import deltas, mask, vectors
from .registry import case


@case
def invert(w):
    inputs = prompts.invert(file_name="")["invert"]["inputs"] | {
        "model": w.model,
        "clip": w.clip,
        "vae": w.vae,
        "images": w.pictures()[:2],
    }
    concept, _name, plot, _report = w.nodes.InvertConcept.execute(**inputs).args
    return {**vectors(concept), "plot": plot}


@case
def invert_mask_batch_saved(w):
    inputs = prompts.invert(file_name="fake_gpu_concept", batch=3, start="mean")["invert"]["inputs"]
    inputs |= {"model": w.model, "clip": w.clip, "vae": w.vae, "images": w.pictures()[:2], "mask": mask(2)}
    concept, name, _plot, _report = w.nodes.InvertConcept.execute(**inputs).args
    more = w.nodes.InvertConcept.execute(
        **inputs | {"continue_from": f"{name.removeprefix('embedding:')}.safetensors", "file_name": ""}
    ).args[0]
    drawn_ = w.draw(w.model, f"a picture of a {name} in noto style")
    forgotten = w.trained(phrase=name)
    return {**vectors(concept), **{f"more.{k}": v for k, v in vectors(more).items()}, "drawn": drawn_, **forgotten}


@case
def correction(w):
    inputs = prompts.correct(file_name="")["correct"]["inputs"] | {
        "model": w.model,
        "clip": w.clip,
        "vae": w.vae,
        "images": w.pictures()[2:4],
    }
    model, patch, _plot, report = w.nodes.ConceptCorrection.execute(**inputs).args
    return {**deltas(patch), "picture": w.draw(model, "a picture of an apple in noto style"), "report": report}


@case
def attack_embedding(w):
    model = w.train()[0]
    inputs = {"steps": 5, "batch": 2, "tokens": 1, "candidates": 4, "seed": 0}
    concept, _found, _plot, _report = w.nodes.AttackForgetPatch.execute(
        model, w.clip, w.vae, w.pictures()[:2], "zebra", "object", "embedding", **inputs
    ).args
    return {**vectors(concept), "picture": w.draw(model), "untouched": w.draw(w.model)}


@case
def attack_tokens(w):
    model = w.train()[0]
    inputs = {"steps": 2, "batch": 2, "tokens": 1, "candidates": 4, "seed": 0}
    _concept, found, _plot, _report = w.nodes.AttackForgetPatch.execute(
        model, w.clip, w.vae, w.pictures()[:2], "zebra", "object", "tokens", **inputs
    ).args
    return {"found": found}


@case
def m_score(w):
    after = w.train()[0]
    inputs = {"tokens": 1, "inversion_steps": 4, "warmup": 1, "inversion_rate": 2e-2, "batch": 2, "seed": 0}
    inputs |= {
        "clip": w.clip,
        "vae": w.vae,
        "images": w.pictures()[:2],
        "phrase": "zebra",
        "kind": "object",
        "model_before": w.model,
        "model_after": after,
    }
    found = {}
    for name, judge in (("projected", w.image_text), ("pooled", None)):
        _scores, before, later, _report = w.nodes.MScoreNode.execute(**inputs, image_text=judge).args
        found[name] = torch.tensor([before, later])
    return found

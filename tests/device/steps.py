"""Steps of a random session: one node each, short, with one right result whatever ran before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests import prompts

from .world import FLOAT32, RESTEER, VISUAL, World, deltas, mask

STEPS: dict[str, Callable[[World], torch.Tensor]] = {}


def step(function: Callable[[World], torch.Tensor]) -> Callable[[World], torch.Tensor]:
    STEPS[function.__name__] = function
    return function


def _change(patch: Any) -> torch.Tensor:
    return torch.cat([d.flatten() for d in deltas(patch).values() if isinstance(d, torch.Tensor)])


def _train(w: World, model: Any = None, **changes) -> Any:
    options = {"steps": 1, "preserve_prompts": "horse\ndog"} | ({"model": model} if model is not None else {})
    return w.train(**options | changes)[:2]


def _short(w: World, **changes) -> Any:
    return w.closed_form_options(imagined_words=20, **changes)


def _patched(w: World) -> Any:
    """MODEL and patch of one closed form, always the same."""
    return _train(w, options=_short(w))


def _only_vectors(concepts: Any) -> torch.Tensor:
    [only] = concepts
    return torch.cat(list(only.embedding.values()))


@step
def train_closed(w):
    return _change(_train(w, options=_short(w))[1])


@step
def train_closed_float32(w):
    return _change(_train(w, options=_short(w, precision=FLOAT32))[1])


@step
def train_resteer(w):
    return _change(_train(w, method=RESTEER)[1])


@step
def train_resteer_images(w):
    inputs = {"images": w.pictures()[:1], "vae": w.vae, "mask": mask()}
    return _change(_train(w, method=RESTEER, options=w.training_options(checkpointing=True), **inputs)[1])


@step
def train_whole(w):
    return _change(_train(w, method=RESTEER, train="whole UNet")[1])


@step
def train_fp32(w):
    return _change(_train(w, method=RESTEER, options=w.training_options(precision="fp32"))[1])


@step
def train_bf16(w):
    """Rounding decides the signs of small gradients: the size of the change is what stays."""
    return _change(_train(w, method=RESTEER, options=w.training_options(precision="bf16"))[1]).abs().sum()[None]


@step
def train_visual(w):
    return _change(_train(w, method=VISUAL, options=w.training_options(pairs=1))[1])


@step
def train_on_patched(w):
    return _change(_train(w, _patched(w)[0], method=RESTEER, phrase="horse")[1])


@step
def train_attacked(w):
    with w.short_attacks():
        return _change(_train(w, options=_short(w, attack_rounds=1))[1])


@step
def draw(w):
    return w.sample(w.model, steps=2)


@step
def draw_patched(w):
    return w.sample(_patched(w)[0], steps=2)


@step
def draw_zeroed(w):
    return w.sample(w.zeroed(), steps=2)


@step
def draw_gated(w):
    positive, negative, _ = w.gated(_patched(w)[1], w.encode("a picture of a zebra"), w.encode(""))
    return w.sample(w.model, positive, negative, steps=2)


@step
def decode(w):
    return w.vae.decode(torch.ones(1, 4, 16, 16)).float().cpu()


@step
def pairs(w):
    return w.pairs(count=1, steps=2)[1]


@step
def invert(w):
    inputs = w.inputs_of(prompts.invert(file_name=""), "invert", images=w.pictures()[:1], inversion_steps=2)
    return _only_vectors(w.nodes.InvertConcept.execute(**inputs).args[0])


@step
def correct(w):
    changes = {"images": w.pictures()[2:3], "inversion_steps": 1, "warmup": 0, "report_samples": 0}
    inputs = w.inputs_of(prompts.correct(file_name=""), "correct", **changes)
    return _change(w.nodes.ConceptCorrection.execute(**inputs).args[1])


@step
def attack(w):
    inputs = {"steps": 1, "batch": 1, "tokens": 1, "candidates": 1, "seed": 0}
    given = (_patched(w)[0], w.clip, w.vae, w.pictures()[:1], "zebra", "object", "embedding")
    return _only_vectors(w.nodes.AttackForgetPatch.execute(*given, **inputs).args[0])


@step
def m_score(w):
    inputs = {"tokens": 1, "inversion_steps": 1, "warmup": 1, "inversion_rate": 2e-2, "batch": 1, "seed": 0}
    inputs |= {"clip": w.clip, "vae": w.vae, "images": w.pictures()[:1], "phrase": "zebra", "kind": "object"}
    scores = w.nodes.MScoreNode.execute(**inputs, model_before=w.model, model_after=_patched(w)[0]).args
    return torch.tensor(scores[1:3])


@step
def attention_map(w):
    inputs = w.inputs_of(prompts.attention_map(), "map", vae=False, steps=2)
    return w.nodes.ConceptAttentionMap.execute(**inputs).args[0]


@step
def attention_mask(w):
    inputs = {"prompt": "", "end_token": "all", "layers": "finest up", "steps": 1, "noise": 0.4, "seed": 0}
    inputs |= {"threshold": 0.0, "grow": 0, "feather": 0.0, "invert": False, "phrase": "zebra"}
    models = {"model": w.model, "clip": w.clip, "vae": w.vae, "images": w.pictures()[:1]}
    return w.nodes.AttentionMask.execute(**models, **inputs).args[0]


@step
def merge(w):
    other = _train(w, phrase="red apple", options=_short(w))[1]
    return _change(w.merged(_patched(w)[1], other, "fusion"))

"""Sampling with zeroed attention, gates and schedules; attention maps and masks."""

from __future__ import annotations

import torch

from tests import prompts

from ..world import HORSE, ZEBRA, mask
from .registry import case


@case
def sampling(w):
    return {"context": w.encode(ZEBRA)[0][0], "latent": w.sample(w.model, w.encode(ZEBRA)), "picture": w.draw(w.model)}


@case
def zero_attention(w):
    return {
        "latent": w.sample(w.zeroed(), w.encode(ZEBRA)),
        "all": w.sample(w.zeroed(end_token="all"), w.encode(ZEBRA)),
        "plain": w.sample(w.model, w.encode(ZEBRA)),
    }


@case
def zero_attention_renormalised(w):
    return {"latent": w.sample(w.zeroed(renormalise=True, strength=0.7), w.encode(ZEBRA), batch=2)}


@case
def zero_attention_mask(w):
    m = torch.linspace(0, 1, 128).expand(1, 128, 128)
    return {
        "latent": w.sample(w.zeroed(mask=m), w.encode(ZEBRA)),
        "renormalised": w.sample(w.zeroed(mask=m, renormalise=True), w.encode(ZEBRA), w.encode("a zebra"), batch=2),
    }


@case
def zero_attention_prompts_window(w):
    model = w.zeroed(prompts=f"{ZEBRA}\n{HORSE}", layers="mid, up", start_percent=0.2, end_percent=0.8)
    plain = w.clip.encode_from_tokens_scheduled(w.clip.tokenize(ZEBRA))
    negative = w.clip.encode_from_tokens_scheduled(w.clip.tokenize(HORSE))
    return {"latent": w.sample(model, plain, negative)}


@case
def zero_attention_area_and_long(w):
    long = w.encode("a house and a guitar and a banana, " * 12 + "a zebra")
    area = [[long[0][0], {**long[0][1], "area": (8, 16, 0, 0), "strength": 1.0}], *w.encode(HORSE)]
    return {"latent": w.sample(w.zeroed(mask=mask()), area, w.encode("zebra"))}


@case
def zero_attention_of_patched(w):
    _model, patch, *_ = w.train()
    twice = w.nodes.ApplyForgetPatch.execute(w.zeroed(), "", 0.5, patch).args[0]
    return {"latent": w.sample(twice, w.encode(ZEBRA))}


@case
def zero_attention_ksampler(w):
    import nodes as host

    model = w.zeroed(end_token="first")
    latent = host.EmptyLatentImage().generate(128, 128, 1)[0]
    made = host.KSampler().sample(model, 3, 4, 3.0, "dpmpp_2m", "karras", w.encode(ZEBRA), w.encode(""), latent)[0][
        "samples"
    ]
    return {"latent": made.cpu().float()}


@case
def gate(w):
    patch = w.train()[1]
    found = {}
    for name, text in (("zebra", ZEBRA), ("horse", HORSE)):
        positive, negative, report = w.gated(patch, w.encode(text), w.encode(""))
        found[name] = w.sample(w.model, positive, negative)
        found[f"{name}.report"] = report
    stacked = [[torch.cat([w.encode(t)[0][0] for t in (HORSE, ZEBRA)]), w.encode(HORSE)[0][1]]]
    positive, negative, report = w.gated(patch, stacked, w.encode(""), curve="smooth", start_percent=0.2)
    found["stacked"] = w.sample(w.model, positive, negative, batch=2)
    return found


@case
def schedule(w):
    patch = w.train()[1]
    made = w.nodes.ScheduleForgetPatch.execute(
        positive=w.encode(ZEBRA),
        patch_file="",
        apply_to="both",
        forget_patch=patch,
        negative=w.encode(""),
        strength=1.0,
        start_percent=0.1,
        end_percent=0.7,
    ).args
    return {"latent": w.sample(w.model, *made[:2])}


@case
def attention_map(w):
    inputs = prompts.attention_map()["map"]["inputs"] | {"model": w.model, "clip": w.clip}
    found = {"plain": w.nodes.ConceptAttentionMap.execute(**inputs).args[0]}
    found["zeroed"] = w.nodes.ConceptAttentionMap.execute(**inputs | {"model": w.zeroed()}).args[0]
    found["wide"] = w.nodes.ConceptAttentionMap.execute(**inputs | {"width": 192}).args[0]
    return found


@case
def attention_mask(w):
    inputs = {
        "model": w.model, "clip": w.clip, "vae": w.vae, "prompt": "", "end_token": "all", "layers": "finest up", "steps": 4, "noise": 0.4,
        "seed": 0, "threshold": 0.0, "grow": 2, "feather": 2.0, "invert": False,
    }  # fmt: skip
    m, overlay = w.nodes.AttentionMask.execute(images=w.pictures()[:2], phrase="zebra", **inputs).args
    return {"mask": m, "overlay": overlay}


@case
def sampling_again(w):
    return sampling(w)

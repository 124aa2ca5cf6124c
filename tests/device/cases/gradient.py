"""Every method by gradient, with each of its options."""

from __future__ import annotations

from ..world import BOTH, RESTEER, VISUAL, deltas, mask
from .registry import case


@case
def resteering(w):
    return w.trained(method=RESTEER)


@case
def resteering_images_mask(w):
    return w.trained(
        method=RESTEER, images=w.pictures()[:2], vae=w.vae, mask=mask(), preserve_prompts="horse\na house", steps=6
    )


@case
def resteering_augmented(w):
    return w.trained(
        method=RESTEER,
        images=w.pictures()[:2],
        vae=w.vae,
        mask=mask(2),
        options=w.training_options(copies=3, crop=0.2, flip=True, bucket=128),
    )


@case
def resteering_checkpointing(w):
    return w.trained(method=RESTEER, options=w.training_options(checkpointing=True))


@case
def resteering_fp32(w):
    return w.trained(method=RESTEER, options=w.training_options(precision="fp32"))


@case
def resteering_fp16(w):
    return w.trained(method=RESTEER, options=w.training_options(precision="fp16"))


@case
def resteering_bf16(w):
    return w.trained(method=RESTEER, options=w.training_options(precision="bf16"))


@case
def resteering_fp16_images_mask(w):
    return w.trained(
        method=RESTEER,
        images=w.pictures()[:2],
        vae=w.vae,
        mask=mask(),
        options=w.training_options(precision="fp16", preview_every=2),
    )


@case
def resteering_whole_unet(w):
    return w.trained(method=RESTEER, train="whole UNet", options=w.training_options(weights="full delta"))


@case
def resteering_whole_unet_bf16(w):
    return w.trained(method=RESTEER, train="whole UNet", options=w.training_options(precision="bf16"))


@case
def resteering_attn2_released_loss(w):
    return w.trained(
        method=RESTEER,
        train="attn2",
        loss="released code",
        target_mass=0.5,
        options=w.training_options(accumulation=2, preview_every=1),
    )


@case
def resteering_own_images(w):
    return w.trained(method=RESTEER, options=w.training_options(own_images=2, drift_every=1))


@case
def resteering_optimisers(w):
    found = {}
    for name, schedule in (("Adam", "linear"), ("RAdam", "cosine"), ("Adafactor", "constant"), ("SGD", "constant")):
        found |= deltas(w.train(method=RESTEER, options=w.training_options(optimiser=name, schedule=schedule))[1], name)
    return found


@case
def resteering_no_preservation(w):
    return w.trained(method=RESTEER, preservation=0.0, preserve_prompts="", options=w.training_options(drift_every=0))


@case
def visual(w):
    return w.trained(method=VISUAL)


@case
def visual_checkpointing_uniform(w):
    return w.trained(
        method=VISUAL, options=w.training_options(checkpointing=True, visual_weighting="uniform", preview_every=1)
    )


@case
def visual_fp16(w):
    return w.trained(method=VISUAL, options=w.training_options(precision="fp16"))


@case
def both(w):
    return w.trained(method=BOTH, steps=4)


@case
def both_checkpointing_full(w):
    return w.trained(method=BOTH, options=w.training_options(checkpointing=True, weights="full delta"))


@case
def both_bf16_pairs(w):
    pairs, picture = w.pairs(count=2)
    return {
        **w.trained(method=BOTH, end_token="all", pairs=pairs, options=w.training_options(precision="bf16")),
        "pairs": picture,
    }


@case
def visual_pairs(w):
    pairs, picture = w.pairs()
    [p] = pairs.values()
    assert p.kept.device.type == "cpu"
    return {"kept": p.kept, "zeroed": p.zeroed, "picture": picture}

"""Compares a MODEL and a CLIP with their state before a node ran, failed or was interrupted."""

from __future__ import annotations

import torch


def wanting_gradients(model, clip) -> set[str]:
    """Names of the parameters that ask for gradients: some hosts' loaders leave the flag on."""
    roots = {"unet": model.model, "text": clip.cond_stage_model}
    return {f"{part}.{n}" for part, root in roots.items() for n, p in root.named_parameters() if p.requires_grad}


def state(model, clip) -> dict:
    """Copies of all weights of a MODEL and a CLIP, and which of them ask for gradients."""
    weights: dict = {"unet." + k: v for k, v in model.model.state_dict().items()}
    weights |= {"text." + k: v for k, v in clip.cond_stage_model.state_dict().items()}
    return {k: v.clone() for k, v in weights.items()} | {"wanting gradients": wanting_gradients(model, clip)}


def assert_untouched(model, clip, before: dict) -> None:
    after = state(model, clip)
    assert before.keys() == after.keys()
    assert after.pop("wanting gradients") <= before["wanting gradients"]
    assert all(torch.equal(before[k], after[k]) for k in after)
    for root in (model.model.diffusion_model, clip.cond_stage_model):
        for module in root.modules():
            assert not module._forward_hooks and not module._forward_pre_hooks and "forward" not in vars(module)
    assert not model.patches and not model.object_patches

"""What must be as it was after any node has run, failed or been interrupted."""

from __future__ import annotations

import torch


def state(model, clip) -> dict[str, torch.Tensor]:
    """Copies of all weights of a MODEL and a CLIP."""
    weights = {"unet." + k: v for k, v in model.model.state_dict().items()}
    weights |= {"text." + k: v for k, v in clip.cond_stage_model.state_dict().items()}
    return {k: v.clone() for k, v in weights.items()}


def assert_untouched(model, clip, before: dict[str, torch.Tensor]) -> None:
    after = state(model, clip)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    for root in (model.model.diffusion_model, clip.cond_stage_model):
        for module in root.modules():
            assert not module._forward_hooks and not module._forward_pre_hooks and "forward" not in vars(module)
            assert not any(p.requires_grad for p in module._parameters.values() if p is not None)
    assert not model.patches and not model.object_patches

"""Training in another precision, through the host's own casting, without a move of the model."""

import pytest
import torch
from forget_me_not.nodes.host import computing_in, load

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def predicted(patcher):
    g = torch.Generator().manual_seed(0)
    x, context = torch.randn(1, 4, 16, 16, generator=g), torch.randn(1, 77, 96, generator=g)
    with torch.inference_mode():
        return patcher.model.apply_model(x, torch.tensor([2.0]), c_crossattn=context).clone()


@pytest.mark.parametrize("precision", DTYPES)
def test_a_model_computes_as_the_hosts_own_change_of_precision_makes_it(miniature, precision):
    model = miniature[0]
    load(model)
    plain, version = predicted(model), model.model.current_weight_patches_uuid
    with computing_in(model, precision):
        ours = predicted(model)
    assert torch.equal(predicted(model), plain)
    assert model.model.current_weight_patches_uuid == version
    clone = model.clone()
    clone.set_model_compute_dtype(DTYPES[precision])
    load(clone)
    theirs = predicted(clone)
    load(model)
    assert torch.equal(ours, theirs) and not torch.equal(ours, plain)


def test_as_loaded_changes_nothing_and_a_failure_is_undone(miniature):
    model = miniature[0]
    load(model)
    plain = predicted(model)
    with computing_in(model, "as loaded"):
        assert torch.equal(predicted(model), plain)
    with pytest.raises(RuntimeError, match="stopped"), computing_in(model, "bf16"):
        raise RuntimeError("stopped")
    assert torch.equal(predicted(model), plain)


def test_offloaded_layers_note_the_precision_where_the_host_looks_for_it(miniature):
    """A layer that the host offloads, or has offloaded, is the same afterwards."""
    model = miniature[0]
    load(model)
    layers = [m for m in model.model.diffusion_model.modules() if hasattr(m, "comfy_cast_weights")]
    first, second = layers[:2]
    first.prev_comfy_cast_weights, first.comfy_cast_weights = False, True
    try:
        with computing_in(model, "bf16"):
            assert first.prev_comfy_cast_weights and second.comfy_cast_weights
            second.prev_comfy_cast_weights = second.comfy_cast_weights
        assert not first.prev_comfy_cast_weights and first.comfy_cast_weights
        assert not second.prev_comfy_cast_weights and second.comfy_cast_weights
    finally:
        for layer in (first, second):
            layer.comfy_cast_weights = False
            del layer.prev_comfy_cast_weights

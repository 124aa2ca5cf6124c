"""The adapter and the patches on the host's own objects, inside this process."""

from types import SimpleNamespace

import pytest
import torch
from forget_me_not.nodes.adapter.model import ComfyModel
from forget_me_not.nodes.host import apply_patch, key_weights

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.concepts.concept import make_concept
from fmn_core.errors import ForgetError
from fmn_core.patch.patch import fingerprint, fingerprint_of_weights, kohya_name
from fmn_core.training.forget import GradientSettings, forget_by_gradient
from fmn_core.training.references import References


@pytest.fixture
def adapter(miniature):
    with torch.inference_mode():
        return ComfyModel(miniature[0], miniature[1])


def weights(model):
    return {k: v.clone() for k, v in model.model.state_dict().items()}


def assert_untouched(model, before):
    after = model.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    for module in model.model.diffusion_model.modules():
        assert not module._forward_hooks
        assert not any(p.requires_grad for p in module._parameters.values() if p is not None)
    assert not model.patches


def test_weights_that_a_caller_trains_get_gradients_in_every_pass(adapter, miniature):
    """As methods do that train weights in place; all others get none."""
    before, prompts = weights(miniature[0]), adapter.encode(["a picture of a zebra"])
    name = adapter.cross_attention()[0].projections["to_v"]
    with torch.inference_mode(), adapter.ready_for_gradients():
        for _ in range(2):
            name.weight.requires_grad_(True)
            for _ in range(2):
                adapter.denoise(torch.ones(1, 4, 16, 16), torch.tensor([5.0]), prompts).sum().backward()
            assert name.weight.grad.abs().sum() > 0
            assert sum(p.requires_grad for p in miniature[0].model.diffusion_model.parameters()) == 1
            name.weight.grad = None
            name.weight.requires_grad_(False)
    assert_untouched(miniature[0], before)


def test_layers_are_those_of_sd(adapter):
    names = [layer.name for layer in adapter.cross_attention()]
    assert len(names) == 16
    assert names[0] == "down_blocks.0.attentions.0.transformer_blocks.0.attn2" and names[6].startswith("mid_block")
    assert names[-1] == "up_blocks.2.attentions.2.transformer_blocks.0.attn2"


def test_phrase_tokens_have_no_special_tokens(adapter):
    assert adapter.phrase_tokens("santa claus") == {"l": adapter.tokenize("a santa claus")["l"][0][2:4]}


def test_prompts_encoded_together_equal_prompts_encoded_alone(adapter, miniature):
    prompts = ["a zebra", "", "a picture of a dog in noto style", "a house"]
    with torch.inference_mode():
        together = adapter.encode(prompts)
        for prompt, encoded in zip(prompts, together):
            alone = miniature[1].encode_from_tokens(miniature[1].tokenize(prompt))[0]
            torch.testing.assert_close(encoded.context, alone.float(), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("train", ["values", "keys and values", "attn2", "whole UNet"])
def test_training_under_inference_mode_leaves_the_model_alone(miniature, adapter, train):
    before = weights(miniature[0])
    with torch.inference_mode(), adapter.ready_for_gradients():
        concept = make_concept(adapter, "zebra")
        patch = forget_by_gradient(
            adapter,
            [concept],
            [References(torch.zeros(1, 4, 16, 16))],
            GradientSettings(steps=2, train=train, rank=2),
        )
    assert any(f.up.abs().max() > 0 for f in patch.factors.values())
    assert_untouched(miniature[0], before)
    _, matched = apply_patch(miniature[0], patch, 1.0)
    assert matched == len(patch.factors)
    assert_untouched(miniature[0], before)


@pytest.mark.parametrize("train", ["attn2", "whole UNet"])
def test_gradient_checkpointing_gives_the_same_patch(miniature, adapter, train):
    before, patches = weights(miniature[0]), []
    for checkpointing in (False, True):
        with torch.inference_mode(), adapter.ready_for_gradients():
            settings = GradientSettings(steps=2, train=train, rank=2, drift_every=0, checkpointing=checkpointing)
            latents = References(torch.zeros(1, 4, 16, 16))
            concept = make_concept(adapter, "zebra")
            patches.append(forget_by_gradient(adapter, [concept], [latents], settings))
        assert_untouched(miniature[0], before)
    for name, factors in patches[0].factors.items():
        torch.testing.assert_close(patches[1].factors[name].up, factors.up)


def test_interrupt_and_failure_leave_the_model_alone(miniature, adapter):
    before = weights(miniature[0])

    class StopError(Exception):
        pass

    def stop(done, total, figures):
        raise StopError

    concept = make_concept(adapter, "zebra")
    for latents, error, progress in (
        (torch.zeros(1, 4, 16, 16), StopError, stop),
        (torch.full((1, 4, 16, 16), float("nan")), ForgetError, None),
    ):
        with pytest.raises(error), torch.inference_mode(), adapter.ready_for_gradients():
            forget_by_gradient(
                adapter,
                [concept],
                [References(latents)],
                GradientSettings(steps=3),
                progress,
            )
        assert_untouched(miniature[0], before)


def test_patched_weights_are_weight_plus_delta(miniature, adapter):
    patch = forget_closed_form(adapter, [make_concept(adapter, "zebra")])
    patched, _ = apply_patch(miniature[0], patch, 0.5)
    other = ComfyModel(patched, miniature[1])
    for layer in adapter.cross_attention():
        delta = patch.factors[kohya_name(layer.name, "to_v")].delta()
        expected = adapter.weights([(layer.name, "to_v")])[0] + 0.5 * delta
        torch.testing.assert_close(other.weights([(layer.name, "to_v")])[0], expected, atol=1e-5, rtol=1e-4)
        assert torch.equal(other.weights([(layer.name, "to_k")])[0], adapter.weights([(layer.name, "to_k")])[0])


def test_denoise_equals_the_hosts_own_prediction(adapter, miniature):
    """Against the v-prediction formula computed by hand from the raw UNet output."""
    model = miniature[0].model
    prompt = adapter.encode(["a picture of a zebra in noto style"])[0]
    x, sigma = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 3, torch.tensor([2.5])
    with torch.inference_mode():
        x0 = adapter.denoise(x, sigma, [prompt])
        t = (adapter.sigmas().log() - sigma.log()).abs().argmin().reshape(1).float()
        v = model.diffusion_model(x / (sigma**2 + 1).sqrt(), t, context=prompt.context[None])
    abar = 1 / (1 + sigma**2)
    torch.testing.assert_close(x0, abar.sqrt() * (x * abar.sqrt()) - (1 - abar).sqrt() * v, atol=1e-4, rtol=1e-4)


def test_models_without_cross_attention_are_refused(miniature):
    other = SimpleNamespace(
        model=SimpleNamespace(diffusion_model=torch.nn.Linear(2, 2)), load_device=torch.device("cpu")
    )
    with pytest.raises(ForgetError, match="a UNet with cross-attention.*got Linear"):
        ComfyModel(other, miniature[1])


def test_missing_and_foreign_clip_are_refused(miniature):
    with pytest.raises(ForgetError, match="Expected a CLIP, got none"):
        ComfyModel(miniature[0], None)


def test_clip_of_another_width_is_refused(miniature):
    class Wide(ComfyModel):
        def encode(self, prompts):
            return [SimpleNamespace(context=torch.zeros(77, 768)) for _ in prompts]

    with pytest.raises(ForgetError, match="width 96 for this MODEL, got 768"):
        Wide(miniature[0], miniature[1])


def test_fingerprint_of_the_node_and_of_the_adapter_agree(adapter, miniature):
    assert fingerprint(adapter) == fingerprint_of_weights(key_weights(miniature[0]))

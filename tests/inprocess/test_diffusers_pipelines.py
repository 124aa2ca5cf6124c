"""Pipelines of diffusers by themselves: their schedules and precisions, and those that cannot be used."""

import pytest
import tiny_pipelines
import torch

from fmn_core.adapters.diffusers_model import DiffusersModel
from fmn_core.errors import ForgetError


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noise_levels_of_other_schedules_are_the_schedulers(schedule, zero_snr):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.001,
        beta_end=0.011,
        beta_schedule=schedule,
        rescale_betas_zero_snr=zero_snr,
        num_train_timesteps=500,
    )
    pipeline = tiny_pipelines.sd2()
    pipeline.scheduler = scheduler
    sigmas = DiffusersModel(pipeline).sigmas().double()
    assert sigmas.shape == (500,) and torch.isfinite(sigmas).all()
    torch.testing.assert_close(1 / (1 + sigmas**2), scheduler.alphas_cumprod.double(), atol=1e-6, rtol=1e-4)


def test_half_precision_predicts_nearly_the_same():
    from mini_sd.export_diffusers import build_pipeline

    pipeline, g = build_pipeline(), torch.Generator().manual_seed(0)
    x, sigma = torch.randn(1, 4, 16, 16, generator=g) * 3, torch.tensor([2.5])
    images = torch.rand(1, 64, 64, 3, generator=g)

    def run():
        model = DiffusersModel(pipeline)
        with torch.no_grad():
            prompts = model.encode(["a zebra"])
            return prompts[0].context, model.denoise(x, sigma, prompts), model.encode_images(images)

    exact = run()
    pipeline.to(torch.float16)
    half = run()
    for a, b in zip(half, exact, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() < 0.005 * b.norm()
    # The miniature's weights are exact in half precision, so a VAE that was run in single precision gives the same.
    assert pipeline.vae.config.force_upcast and torch.equal(half[2], exact[2])
    assert pipeline.vae.dtype == torch.float16 and not torch.equal(half[1], exact[1])


def flux():
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(FlowMatchEulerDiscreteScheduler(), None, None, None, None, None, transformer)


def sd3():
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
    )
    parts = dict.fromkeys(
        ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    )
    return StableDiffusion3Pipeline(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), **parts)


@pytest.mark.parametrize(("make", "name"), [(flux, "FluxPipeline"), (sd3, "StableDiffusion3Pipeline")])
def test_transformer_pipelines_are_refused(make, name):
    with pytest.raises(ForgetError, match=f"got {name}.*Flux and SD3, are not supported.*SD 1.x, 2.x or XL"):
        DiffusersModel(make())


def without_text_encoder(pipeline):
    pipeline.text_encoder = None


def without_tokenizer(pipeline):
    pipeline.tokenizer = None


def without_scheduler(pipeline):
    pipeline.scheduler = None


def with_flow_matching(pipeline):
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()


def with_sample_prediction(pipeline):
    pipeline.scheduler.register_to_config(prediction_type="sample")


def with_a_wider_text_encoder(pipeline):
    pipeline.text_encoder = tiny_pipelines.text_encoder("CLIPTextModel", tiny_pipelines.TEXT_L, "gelu")


def with_an_inpainting_unet(pipeline):
    pipeline.unet.register_to_config(in_channels=9)


def with_eight_bit_weights(pipeline):
    layer = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v
    layer.weight = torch.nn.Parameter(layer.weight.detach().mul(100).to(torch.int8), requires_grad=False)


def with_float8_weights(pipeline):
    layer = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v
    layer.weight = torch.nn.Parameter(layer.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)


def with_weights_elsewhere(pipeline):
    pipeline.unet.mid_block.to("meta")


def with_fused_projections(pipeline):
    pipeline.fuse_qkv_projections(vae=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_text_encoder, "with text_encoder, got none. Load it with all"),
        (without_tokenizer, "with tokenizer, got none"),
        (without_scheduler, "with a scheduler, got none"),
        (with_flow_matching, "epsilon or v_prediction, got FlowMatchEulerDiscreteScheduler"),
        (with_sample_prediction, r"epsilon or v_prediction, got EulerDiscreteScheduler \(sample\)"),
        (with_a_wider_text_encoder, "width 48 for this UNet, got 32"),
        (with_an_inpainting_unet, "wants more than the latent's channels"),
        (with_eight_bit_weights, "half or single precision, got Linear of torch.int8 at mid_block.*unquantised"),
        (with_float8_weights, "half or single precision, got Linear of torch.float8_e4m3fn"),
        (with_weights_elsewhere, "weights in memory, got none for mid_block"),
        (with_fused_projections, "unfuse_qkv_projections"),
    ],
)
def test_pipelines_that_cannot_be_used_are_refused(change, message):
    pipeline = tiny_pipelines.sd2()
    change(pipeline)
    with pytest.raises(ForgetError, match=message):
        DiffusersModel(pipeline)


def test_images_need_a_vae():
    pipeline = tiny_pipelines.sd2()
    pipeline.vae = None
    model = DiffusersModel(pipeline)
    with pytest.raises(ForgetError, match="with a VAE, got none"):
        model.encode_images(torch.zeros(1, 64, 64, 3))


def test_weights_of_inference_mode_cannot_be_trained():
    with torch.inference_mode():
        model = DiffusersModel(tiny_pipelines.sd2())
    with pytest.raises(ForgetError, match="loaded under torch.inference_mode"), model.ready_for_gradients():
        pass

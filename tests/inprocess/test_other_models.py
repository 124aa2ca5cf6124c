"""Models that are not supported, and quantised ones, made from the host's own classes."""

import json

import pytest
import torch
from forget_me_not.nodes import host
from forget_me_not.nodes.adapter.model import ComfyModel

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import make_concept
from fmn_core.errors import ForgetError
from fmn_core.training.forget import GradientSettings, forget_by_gradient
from fmn_core.training.references import References
from tools import comfy_host

FP8 = torch.float8_e4m3fn


def nodes_by_id():
    return {node.define_schema().node_id: node for node in comfy_host.load_pack().NODES}


def patcher(model):
    import comfy.model_patcher

    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def flux():
    import comfy.supported_models
    from comfy.ldm.flux.model import FluxParams

    newer = {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else {}
    config = comfy.supported_models.Flux(
        {
            "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 8,
            "context_in_dim": 8, "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1,
            "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True, "guidance_embed": True,
            **newer,
        }
    )  # fmt: skip
    return patcher(config.get_model({}))


def sd3():
    import comfy.supported_models

    config = comfy.supported_models.SD3(
        {
            "in_channels": 16, "patch_size": 2, "depth": 2, "num_blocks": 2, "input_size": None, "adm_in_channels": 8,
            "pos_embed_scaling_factor": None, "context_embedder_config": {
                "target": "torch.nn.Linear", "params": {"in_features": 8, "out_features": 128},
            },
        }
    )  # fmt: skip
    return patcher(config.get_model({}))


@pytest.mark.parametrize(("make", "name"), [(flux, "Flux"), (sd3, "OpenAISignatureMMDITWrapper")])
@pytest.mark.parametrize("node_id", ["FMN_ConceptAttentionMap"])
def test_transformers_are_refused_with_what_is_supported(miniature, make, name, node_id):
    inputs = {
        "FMN_ConceptAttentionMap": dict.fromkeys(("prompt", "phrase", "end_token", "width", "height", "steps", "seed")),
    }
    message = f"Expected a Stable Diffusion 1.x, 2.x or XL model .*got {name}"
    with torch.inference_mode(), pytest.raises(ForgetError, match=message):
        nodes_by_id()[node_id].execute(model=make(), clip=miniature[1], **inputs[node_id])


def miniature_weights():
    import comfy.utils

    weights = comfy.utils.load_torch_file(str(host.MINIATURE / "weights" / "mini_sd.safetensors"))
    return {k.removeprefix("unet."): v for k, v in weights.items() if k.startswith("unet.")}


def stored(dtype, weights, **changes):
    """The miniature with its UNet as a loader of quantised files would give it."""
    import comfy.model_base

    config = json.loads((host.MINIATURE / "config.json").read_text())
    model_config = host.MiniatureConfig(config)
    model_config.set_inference_dtype(dtype, torch.float32)
    for name, value in changes.items():
        setattr(model_config, name, value)
    model = comfy.model_base.BaseModel(model_config, model_type=comfy.model_base.ModelType.V_PREDICTION)
    missing, unexpected = model.diffusion_model.load_state_dict(weights, strict=False)
    assert not unexpected and all("scale" in name for name in missing)
    return patcher(model)


def values(name):
    return name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))


def plain_fp8():
    return stored(FP8, miniature_weights())


def scaled(chosen, ending):
    """The miniature's UNet with the chosen weights in fp8, each with a scale of its own; and their names."""
    weights = miniature_weights()
    names = [name for name in weights if name.endswith(".weight") and chosen(name, weights[name])]
    for name in names:
        scale = weights[name].float().abs().max() / 400
        weights[name] = (weights[name].float() / scale).to(FP8)
        weights[name.removesuffix("weight") + ending] = scale
    return weights, names


def scaled_fp8():
    """As `scaled_fp8` checkpoints are loaded: every linear layer with a scale of its own."""
    import comfy.utils

    weights, _ = scaled(lambda name, weight: weight.ndim == 2, "scale_weight")
    if not hasattr(comfy.utils, "convert_old_quants"):
        return stored(torch.float16, weights, scaled_fp8=FP8)
    # newer hosts load them as QuantizedTensor
    weights, _ = comfy.utils.convert_old_quants(weights | {"scaled_fp8": torch.zeros(2, dtype=FP8)})
    return stored(torch.float16, weights, quant_config=comfy.utils.detect_layer_quantization(weights, ""))


def quantised():
    """As checkpoints with quantisation metadata are loaded: the host's QuantizedTensor in some layers."""
    pytest.importorskip("comfy.quant_ops", reason="this host has no QuantizedTensor")
    import comfy.utils

    weights, names = scaled(lambda name, weight: values(name), "weight_scale")
    layers = {name.removesuffix(".weight"): {"format": "float8_e4m3fn"} for name in names}
    if not hasattr(comfy.utils, "convert_old_quants"):
        return stored(torch.float32, weights, layer_quant_config=layers)
    metadata = {"_quantization_metadata": json.dumps({"layers": layers})}
    weights, _ = comfy.utils.convert_old_quants(weights, metadata=metadata)
    return stored(torch.float32, weights, quant_config=comfy.utils.detect_layer_quantization(weights, ""))


class GGMLTensor(torch.Tensor):
    """Packed bytes that say the shape they stand for, as ComfyUI-GGUF has them."""

    tensor_type = 8

    @property
    def shape(self):
        return self.tensor_shape


def gguf():
    model = stored(torch.float32, miniature_weights())
    for name, module in model.model.diffusion_model.named_modules():
        if values(name + ".weight"):
            packed = torch.zeros(module.weight.numel(), dtype=torch.uint8).as_subclass(GGMLTensor)
            packed.tensor_shape = module.weight.shape
            module._parameters["weight"] = packed
    return model


def adapter_of(model, miniature):
    with torch.inference_mode():
        return ComfyModel(model, miniature[1])


@pytest.mark.parametrize(("make", "tolerance"), [(plain_fp8, 0.07), (scaled_fp8, 0.07), (quantised, 0.07)])
def test_the_closed_form_reads_fp8_weights_as_numbers(miniature, make, tolerance):
    adapter, plain = adapter_of(make(), miniature), adapter_of(miniature[0], miniature)
    for layer in plain.cross_attention():
        for projection in ("to_k", "to_v"):
            found, expected = (
                adapter.weights([(layer.name, projection)])[0],
                plain.weights([(layer.name, projection)])[0],
            )
            assert found.dtype == torch.float32 and (found - expected).norm() < tolerance * expected.norm()
    settings = ClosedFormSettings(imagined_words=4)
    patch = forget_closed_form(adapter, [make_concept(adapter, "zebra")], settings)
    _, matched = host.apply_patch(adapter.patcher, patch, 1.0)
    assert matched == 16


def train(adapter):
    with torch.inference_mode(), adapter.ready_for_gradients():
        return forget_by_gradient(
            adapter,
            [make_concept(adapter, "zebra")],
            [References(torch.zeros(1, 4, 16, 16))],
            GradientSettings(steps=1, rank=2, drift_every=0),
        )


@pytest.mark.parametrize("make", [plain_fp8, scaled_fp8])
def test_gradients_pass_through_fp8_weights(miniature, make):
    import comfy.utils

    adapter = adapter_of(make(), miniature)
    if make is scaled_fp8 and hasattr(comfy.utils, "convert_old_quants"):
        with pytest.raises(ForgetError, match="got QuantizedTensor in .* loads fp8 with scales as QuantizedTensor too"):
            train(adapter)
        return
    found = train(adapter).figures["losses"][0]
    assert found == pytest.approx(train(adapter_of(miniature[0], miniature)).figures["losses"][0], rel=0.2)


@pytest.mark.parametrize(("make", "name"), [(quantised, "QuantizedTensor"), (gguf, "GGMLTensor")])
def test_gradients_through_quantised_weights_are_refused_by_name(miniature, make, name):
    adapter = adapter_of(make(), miniature)
    with pytest.raises(ForgetError, match=f"Expected weights in fp32, bf16, fp16 or fp8, got {name} in .*attn2"):
        train(adapter)


def test_the_closed_form_refuses_weights_it_cannot_read(miniature):
    adapter = adapter_of(gguf(), miniature)
    with pytest.raises(ForgetError, match="got GGMLTensor in .*attn2.to_"):
        adapter.weights([(adapter.cross_attention()[0].name, "to_v")])[0]
    packed = stored(torch.float32, miniature_weights())
    module = packed.model.diffusion_model.get_submodule("input_blocks.1.1.transformer_blocks.0.attn2.to_v")
    module._parameters["weight"] = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ForgetError, match="got torch.uint8 in diffusion_model.input_blocks.1"):
        adapter_of(packed, miniature).weights([(adapter.cross_attention()[0].name, "to_v")])[0]

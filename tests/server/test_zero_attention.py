"""Zero Concept Attention through the real server."""

import pytest
import torch
from prompts import HORSE, ZEBRA, miniature, pictures, sampled, train

from tools.comfy_server import NodeError

LONG = ZEBRA + ", " + "a house and a guitar and a banana, " * 12


def zero(**changes) -> dict:
    inputs = {
        "model": ["mini", 0], "clip": ["mini", 1], "phrase": "zebra", "strength": 1.0, "end_token": "all", "layers": "all",
        "start_percent": 0.0, "end_percent": 1.0, "renormalise": False, "prompts": "",
    }  # fmt: skip
    return miniature() | {"zero": {"class_type": "FMN_ZeroConceptAttention", "inputs": inputs | changes}}


def pair(server, caption, zero_nodes, encode="FMN_EncodePrompt", negative="", batch=1, model="zero"):
    """The same picture with the untouched and with the zeroed model."""
    prompt = zero_nodes | sampled("a", ["mini", 0], caption, encode=encode, negative=negative, batch=batch)
    prompt |= sampled("b", [model, 0], caption, encode=encode, negative=negative, batch=batch)
    outputs = server.run(prompt)
    return pictures(server, outputs, "a"), pictures(server, outputs, "b")


@pytest.mark.parametrize("renormalise", [False, True])
def test_phrase_changes_and_other_prompts_are_bit_identical(server, renormalise):
    a, b = pair(server, ZEBRA, zero(renormalise=renormalise))
    assert not torch.equal(a, b)
    if not renormalise:
        a, b = pair(server, HORSE, zero())
        assert torch.equal(a, b)


def test_the_phrase_in_the_negative_prompt_is_found_too(server):
    a, b = pair(server, HORSE, zero(), negative="a zebra")
    assert not torch.equal(a, b)


def test_prompts_of_the_stock_encoder_are_found_when_listed(server):
    tagged = pair(server, ZEBRA, zero())[1]
    listed = pair(server, ZEBRA, zero(prompts=f"{HORSE}\n{ZEBRA}"), encode="CLIPTextEncode")[1]
    assert torch.equal(tagged, listed)


def test_prompts_of_the_stock_encoder_that_are_not_listed_are_an_error(server):
    with pytest.raises(NodeError, match="knows none of the prompts of this sampling"):
        pair(server, ZEBRA, zero(), encode="CLIPTextEncode")


def test_every_cond_of_a_combination_has_its_own_columns(server):
    """Combined and joined prompts: what holds the phrase changes, and the order does not matter."""
    prompt = (
        zero()
        | sampled("a", ["zero", 0], HORSE, encode="FMN_EncodePrompt")
        | sampled("b", ["mini", 0], HORSE, encode="FMN_EncodePrompt")
    )
    prompt["second"] = {"class_type": "FMN_EncodePrompt", "inputs": {"clip": ["mini", 1], "text": ZEBRA}}
    for name in "ab":
        prompt[f"{name}.both"] = {
            "class_type": "ConditioningCombine",
            "inputs": {"conditioning_1": [f"{name}.text", 0], "conditioning_2": ["second", 0]},
        }
        prompt[f"{name}.sample"]["inputs"]["positive"] = [f"{name}.both", 0]
    outputs = server.run(prompt)
    assert not torch.equal(pictures(server, outputs, "a"), pictures(server, outputs, "b"))


def test_joined_and_long_prompts_of_unequal_length(server):
    a, b = pair(server, LONG, zero(), batch=2)
    assert not torch.equal(a, b)
    prompt = (
        zero()
        | sampled("a", ["zero", 0], HORSE, encode="FMN_EncodePrompt")
        | sampled("b", ["mini", 0], HORSE, encode="FMN_EncodePrompt")
    )
    prompt["second"] = {"class_type": "FMN_EncodePrompt", "inputs": {"clip": ["mini", 1], "text": "a guitar"}}
    for name in "ab":
        prompt[f"{name}.both"] = {
            "class_type": "ConditioningConcat",
            "inputs": {"conditioning_to": [f"{name}.text", 0], "conditioning_from": ["second", 0]},
        }
        prompt[f"{name}.sample"]["inputs"]["positive"] = [f"{name}.both", 0]
    outputs = server.run(prompt)
    assert torch.equal(pictures(server, outputs, "a"), pictures(server, outputs, "b"))


@pytest.mark.parametrize(
    "change",
    [{"strength": 0.0}, {"start_percent": 1.0, "end_percent": 1.0}, {"start_percent": 0.6, "end_percent": 0.4}],
    ids=lambda c: next(iter(c)),
)
def test_no_strength_and_no_steps_change_nothing(server, change):
    a, b = pair(server, ZEBRA, zero(**change))
    assert torch.equal(a, b)


def test_a_part_of_the_layers_or_steps_does_less(server):
    full = [p.float() for p in pair(server, ZEBRA, zero())]
    for change in ({"layers": "mid"}, {"start_percent": 0.7}, {"strength": 0.3}):
        part = [p.float() for p in pair(server, ZEBRA, zero(**change))]
        assert 0 < (part[0] - part[1]).abs().mean() < (full[0] - full[1]).abs().mean()


def test_two_of_them_chain(server):
    nodes = zero(phrase="zebra")
    nodes["zero2"] = {
        "class_type": "FMN_ZeroConceptAttention",
        "inputs": {**nodes["zero"]["inputs"], "model": ["zero", 0], "phrase": "noto"},
    }
    a, b = pair(server, ZEBRA, nodes, model="zero2")
    once = pair(server, ZEBRA, nodes)[1]
    assert not torch.equal(b, once) and not torch.equal(a, once)
    assert torch.equal(*pair(server, "a picture of a horse in fluent style", nodes, model="zero2"))


def test_two_that_renormalise_the_same_layers_chain(server):
    nodes = zero(renormalise=True)
    nodes["zero2"] = {
        "class_type": "FMN_ZeroConceptAttention",
        "inputs": {**nodes["zero"]["inputs"], "model": ["zero", 0], "phrase": "noto"},
    }
    a, b = pair(server, ZEBRA, nodes, model="zero2")
    once = pair(server, ZEBRA, nodes)[1]
    assert not torch.equal(b, once) and not torch.equal(a, once)


def test_mask_keeps_the_other_half_closer(server):
    """All of the mask is the node without one; half of it does less."""
    nodes = zero(mask=["mask", 0])
    nodes["mask"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 128, "height": 128}}
    a, whole = pair(server, ZEBRA, nodes)
    assert (whole.float() - pair(server, ZEBRA, zero())[1].float()).abs().max() <= 2
    nodes["black"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 128, "height": 128}}
    nodes["left"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 128}}
    nodes["mask"] = {
        "class_type": "MaskComposite",
        "inputs": {"destination": ["black", 0], "source": ["left", 0], "x": 0, "y": 0, "operation": "add"},
    }
    half = pair(server, ZEBRA, nodes)[1]
    left, right = (a.float() - half.float()).abs().mean(dim=(0, 1, 3)).split(64)
    assert 0 < right.mean() < left.mean()


def test_hooks_of_a_conditioning(server, patches):
    """Create Hook LoRA with a forget patch of another concept, on the positive conditioning only."""
    server.run(train(phrase="horse", file_name="hooked"))
    nodes = zero()
    nodes["hook"] = {
        "class_type": "CreateHookLora",
        "inputs": {"lora_name": "forget_me_not/hooked.safetensors", "strength_model": 1.0, "strength_clip": 0.0},
    }
    prompt = dict(nodes)
    for name, model in (("a", "mini"), ("b", "zero")):
        prompt |= sampled(name, [model, 0], "a zebra and a horse", encode="FMN_EncodePrompt")
        prompt[f"{name}.hooked"] = {
            "class_type": "ConditioningSetProperties",
            "inputs": {
                "cond_NEW": [f"{name}.text", 0],
                "hooks": ["hook", 0],
                "strength": 1.0,
                "set_cond_area": "default",
            },
        }
        prompt[f"{name}.sample"]["inputs"]["positive"] = [f"{name}.hooked", 0]
    outputs = server.run(prompt)
    a, b = pictures(server, outputs, "a"), pictures(server, outputs, "b")
    unhooked = pair(server, "a zebra and a horse", zero())
    assert not torch.equal(a, b) and not torch.equal(a, unhooked[0]) and not torch.equal(b, unhooked[1])


@pytest.mark.parametrize(
    ("value", "size", "message"), [(0.0, 128, "zeros only"), (1.0, 7, "at least 8x8 pixels, got 7x128")]
)
def test_bad_masks_are_one_sentence(server, value, size, message):
    nodes = zero(mask=["mask", 0])
    nodes["mask"] = {"class_type": "SolidMask", "inputs": {"value": value, "width": size, "height": 128}}
    with pytest.raises(NodeError, match=message):
        pair(server, ZEBRA, nodes)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"phrase": " "}, "empty text"), ({"layers": "left"}, "got 'left'"), ({"layers": "40"}, "from 0 to 15")],
)
def test_bad_input_is_one_sentence(server, change, message):
    with pytest.raises(NodeError, match=message):
        pair(server, ZEBRA, zero(**change))

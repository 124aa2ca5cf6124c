"""Zero Concept Attention beside other nodes that change the model: attention patches, ControlNet, forget patches and hooks."""

import pytest
import torch
from forget_me_not.nodes import host
from forget_me_not.nodes.adapter.model import ComfyModel
from forget_me_not.nodes.host import apply_patch, attention_blocks
from inprocess.sampling import control_net, sample
from inprocess.zero_attention.comparison import assert_same, check
from inprocess.zero_attention.zero_reference import Stage, reference
from prompts import HORSE, ZEBRA

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.concepts.concept import make_concept
from fmn_core.errors import ForgetError

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")


@pytest.mark.parametrize(
    ("order", "masked"),
    [
        ("before", False),
        ("after", True),
        pytest.param("before", True, marks=pytest.mark.slow),
        pytest.param("after", False, marks=pytest.mark.slow),
    ],
)
def test_other_replacements_of_attention_stay(miniature, zero, encode, order, masked):
    from comfy.ldm.modules.attention import optimized_attention

    def extra(q):
        return 0.3 * torch.tanh(q)

    def other(q, k, v, extra_options):
        return optimized_attention(q, k, v, extra_options["n_heads"]) + extra(q)

    def install(model, with_index):
        clone = model.clone()
        for block in attention_blocks(model):
            clone.set_model_attn2_replace(other, *(block if with_index else block[:2]))
        return clone

    mask = torch.linspace(0, 1, 128).expand(1, 128, 128) if masked else None
    positive, negative = encode(ZEBRA), encode("")
    stage = Stage([(positive[0][0][0], [5])], mask=mask)
    for with_index in (False, True):
        base = install(miniature[0], with_index)
        model = zero(base, mask=mask) if order == "before" else install(zero(mask=mask), with_index)
        theirs = reference(host, miniature[0], [stage], extra)
        assert_same(*(sample(m, positive, negative) for m in (model, theirs, base)))
        assert torch.equal(sample(model, encode(HORSE), negative), sample(base, encode(HORSE), negative))
        renormalised = zero(base, renormalise=True)
        with pytest.raises(ForgetError, match="Switch `renormalise` off"):
            sample(renormalised, positive, negative)
        assert torch.equal(sample(renormalised, encode(HORSE), negative), sample(base, encode(HORSE), negative))


@pytest.mark.parametrize(
    "flags", [(True, False), *(pytest.param(f, marks=pytest.mark.slow) for f in ((True, True), (False, True)))]
)
def test_two_nodes_on_the_same_layers(miniature, zero, encode, flags):
    positive, negative = encode(ZEBRA), encode("")
    mask = torch.linspace(0, 1, 128).expand(1, 128, 128)
    model = zero(zero(renormalise=flags[0], strength=0.7), phrase="noto", renormalise=flags[1], mask=mask)
    context = positive[0][0][0]
    stages = [Stage([(context, [5])], 0.7, flags[0]), Stage([(context, [7, 8])], 1.0, flags[1], mask)]
    check(miniature, model, stages, positive, negative)


def test_patches_that_append_tokens_or_split_the_batch(miniature, zero, encode):
    """attn2 patches, as IP-Adapters and regional prompts use them."""
    positive, negative = encode(ZEBRA), encode("")
    tokens = torch.randn(1, 4, 96, generator=torch.Generator().manual_seed(3))

    def append(n, context, value, extra_options):
        more = tokens.expand(len(context), -1, -1)
        return n, torch.cat([context, more], 1), torch.cat([value, more], 1)

    def split(n, context, value, extra_options):
        return n.repeat(2, 1, 1), context.repeat(2, 1, 1), value.repeat(2, 1, 1)

    def foreign(n, context, value, extra_options):
        return n.repeat(2, 1, 1), context.repeat(2, 1, 1) + 1, value.repeat(2, 1, 1)

    def patched(model, *patches):
        clone = model.clone()
        for patch in patches:
            clone.set_model_attn2_patch(patch)
        clone.set_model_attn2_output_patch(lambda n, extra_options: n[: len(n) // 2] if split in patches else n)
        return clone

    check(miniature, patched(zero(), split), [Stage([(positive[0][0][0], [5])])], positive, negative)
    base = patched(miniature[0], append)
    for model in (patched(zero(), append), zero(base)):
        check(miniature, model, [Stage([(positive[0][0][0], [5])])], positive, negative, base=base)
    with pytest.raises(ForgetError, match="from a node that patches attn2"):
        sample(patched(zero(), foreign), positive, negative)
    with pytest.raises(ForgetError, match="Expected a batch of 2 in attn2, got 4"):
        sample(patched(zero(mask=torch.ones(8, 8)), split), positive, negative)


def test_control_net(miniature, zero, encode, core):
    picture = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(5))
    positive, negative = core.ControlNetApplyAdvanced().apply_controlnet(
        encode(ZEBRA), encode("a zebra"), control_net(), picture, 1.0, 0.0, 1.0
    )
    plain = sample(miniature[0], encode(ZEBRA), encode("a zebra"))
    assert (sample(miniature[0], positive, negative) - plain).abs().max() > 1e-2
    stage = Stage([(positive[0][0][0], [5]), (negative[0][0][0], [2])])
    check(miniature, zero(), [stage], positive, negative)


@pytest.fixture
def patch(miniature):
    adapter = ComfyModel(miniature[0], miniature[1])
    return forget_closed_form(adapter, [make_concept(adapter, "horse")])


def test_patched_model_before_and_after(miniature, zero, encode, patch):
    positive, negative = encode("a zebra and a horse"), encode("")
    patched = apply_patch(miniature[0], patch, 1.0)[0]
    before, after = zero(patched), apply_patch(zero(), patch, 1.0)[0]
    assert torch.equal(sample(before, positive, negative), sample(after, positive, negative))
    check(miniature, before, [Stage([(positive[0][0][0], [2])])], positive, negative, base=patched)


def test_hooks_of_single_conditionings(miniature, zero, encode, core, patch):
    """Conditionings with hooks run in calls of their own, with weights of their own."""
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(patch.state_dict(torch.float32), 1.0, 0.0)
    frames = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((0.2, 0.0), (1.0, 0.5)):
        frames.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    hooks.set_keyframes_on_hooks(frames)
    hooked = core.ConditioningSetProperties().set_properties(
        encode("a zebra and a horse"), 1.0, "default", hooks=hooks
    )[0]
    positive, negative = [*hooked, *encode(ZEBRA)], encode("a zebra")
    plain = sample(miniature[0], [*encode("a zebra and a horse"), *encode(ZEBRA)], negative)
    assert (sample(miniature[0], positive, negative) - plain).abs().max() > 1e-2
    prompts = [(hooked[0][0][0], [2]), (positive[1][0][0], [5]), (negative[0][0][0], [2])]
    check(miniature, zero(), [Stage(prompts)], positive, negative, steps=3)


@pytest.mark.parametrize("listed", [False, True])
def test_hooks_of_the_text_encoder(miniature, zero, encode, core, listed):
    """A LoRA of the text encoder in two keyframes: two encodings of the prompt, one after the other."""
    import comfy.hooks

    g = torch.Generator().manual_seed(6)
    key = "lora_te_text_model_encoder_layers_1_mlp_fc1"
    lora = {
        f"{key}.lora_up.weight": torch.randn(384, 4, generator=g) * 0.2,
        f"{key}.lora_down.weight": torch.randn(4, 96, generator=g),
    }
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 1.0)
    frames = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((0.3, 0.0), (1.0, 0.6)):
        frames.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    hooks.set_keyframes_on_hooks(frames)
    clip = core.SetClipHooks().apply_hooks(miniature[1], True, True, hooks)[0]
    positive, negative = (encode(ZEBRA, clip), encode("", clip)) if not listed else (
        core.CLIPTextEncode().encode(clip, t)[0] for t in (ZEBRA, "")
    )  # fmt: skip
    assert len(positive) == 2 and (positive[0][0] - positive[1][0]).abs().max() > 0.1
    model = zero(clip=clip, prompts=ZEBRA if listed else "")
    check(miniature, model, [Stage([(c[0][0], [5]) for c in positive])], positive, negative, steps=4)

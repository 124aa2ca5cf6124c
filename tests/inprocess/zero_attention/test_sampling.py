"""Zero Concept Attention in sampling by the host, against a brute-force attention in float64."""

import pytest
import torch
from forget_me_not.nodes import host
from inprocess.sampling import sample
from inprocess.zero_attention.comparison import check
from inprocess.zero_attention.zero_reference import Stage, reference
from prompts import HORSE, ZEBRA

from fmn_core.errors import ForgetError

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")


def test_the_reference_without_stages_is_the_model(miniature, encode):
    """What rounding makes of a sampling whose attention is in float64."""
    ours, theirs = (sample(m, encode(ZEBRA), encode("")) for m in (miniature[0], reference(host, miniature[0], [])))
    assert 0 < (ours - theirs).abs().max() < 3e-4 * ours.abs().max()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("renormalise", [False, True])
def test_one_call_of_the_model_within_rounding(miniature, zero, encode, renormalise, masked):
    mask = torch.linspace(0, 1, 128).expand(1, 128, 128) if masked else None
    context = torch.cat([encode(HORSE)[0][0], encode(ZEBRA)[0][0]])
    model = zero(prompts=f"{HORSE}\n{ZEBRA}", strength=0.9, renormalise=renormalise, mask=mask)
    stages = [Stage([(context[1], [5])], 0.9, renormalise, mask)]
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    outputs = []
    for patcher in (model, reference(host, miniature[0], stages), reference(host, miniature[0], [])):
        options = {"wrappers": patcher.wrappers, "uuids": [0, 1], "sigmas": torch.tensor([1.0])}
        options |= patcher.model_options["transformer_options"]
        sigma = torch.tensor([1.0, 1.0])
        outputs.append(patcher.model.apply_model(x, sigma, c_crossattn=context, transformer_options=options))
    ours, theirs, untouched = outputs
    torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=0)
    torch.testing.assert_close(ours[0], untouched[0], atol=3e-5, rtol=0)
    assert (ours[1] - untouched[1]).abs().max() > 1e-2


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_combined_prompts_and_a_batch(miniature, zero, encode, strength, renormalise):
    texts = [ZEBRA, HORSE, "a zebra and a horse and a zebra"]
    conds = [encode(t) for t in texts]
    negative = encode("zebra")
    prompts = [(conds[0][0][0][0], [5]), (conds[2][0][0][0], [2, 8]), (negative[0][0][0], [1])]
    model = zero(strength=strength, renormalise=renormalise)
    stage = Stage(prompts, strength, renormalise)
    check(miniature, model, [stage], [c for cond in conds for c in cond], negative, batch=2)


def test_several_phrases_and_end_tokens(miniature, zero, encode):
    positive, negative = encode(ZEBRA), encode("")
    for end, columns in (("none", [5, 7, 8]), ("first", [5, 7, 8, 10]), ("all", [5, 7, 8, *range(10, 77)])):
        model = zero(phrase="zebra\nnoto", end_token=end)
        check(miniature, model, [Stage([(positive[0][0][0], columns)])], positive, negative, steps=1)


def test_part_of_the_layers_and_of_sampling(miniature, zero, encode):
    positive, negative = encode(ZEBRA), encode("")
    for layers, places in (("mid, up", ("middle", "output")), ("down, mid", ("input", "middle")), ("up", ("output",))):
        stage = Stage([(positive[0][0][0], [5])], places=places, percents=(0.15, 0.65))
        model = zero(layers=layers, start_percent=0.15, end_percent=0.65)
        check(miniature, model, [stage], positive, negative, steps=5)


@pytest.mark.parametrize("masked", [False, True])
def test_area_conditioning(miniature, zero, encode, core, masked):
    lower = core.ConditioningSetArea().append(encode(ZEBRA), 128, 64, 0, 64, 1.0)[0]
    positive, negative = [*encode(HORSE), *lower], encode("a zebra")
    mask = torch.rand(1, 128, 128, generator=torch.Generator().manual_seed(1)) if masked else None
    stage = Stage([(lower[0][0][0], [5]), (negative[0][0][0], [2])], mask=mask, tops={(8, 16): (8, 0)})
    check(miniature, zero(mask=mask), [stage], positive, negative, batch=2)


@pytest.mark.parametrize("renormalise", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((128, 128), (16, 16)), ((3, 96, 160), (12, 20)), ((1, 104, 152), (13, 19)), ((2, 50, 333), (16, 24))],
)
def test_mask(miniature, zero, encode, shape, size, renormalise):
    """Every size of latent, odd ones too; masks of another shape are stretched; masks of a batch go in turns."""
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(2))
    mask[..., : shape[-1] // 2] = 0
    positive, negative = encode(ZEBRA), encode("")
    stage = Stage([(positive[0][0][0], [5])], 0.8, renormalise, mask if mask.ndim == 3 else mask[None])
    stage.crop = lambda size: (slice(None), slice(None))
    model = zero(strength=0.8, renormalise=renormalise, mask=mask)
    check(miniature, model, [stage], positive, negative, size=size, batch=2, steps=2)


def test_the_model_and_the_call_are_left_as_they_were(miniature, zero, encode):
    positive, negative = encode(ZEBRA), encode("")
    before, options = sample(miniature[0], positive, negative), str(miniature[0].model_options)
    model = zero(mask=torch.ones(128, 128))
    assert torch.equal(sample(model, positive, negative), sample(model, positive, negative))
    assert torch.equal(sample(miniature[0], positive, negative), before)
    assert str(miniature[0].model_options) == options and not any(miniature[0].wrappers.values())
    assert str(model.model_options) == options


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(1, 64, 64), "zeros only"),
        (torch.ones(7, 64), "at least 8x8 pixels, got 64x7"),
        (torch.ones(1, 1, 64, 64), r"got \(1, 1, 64, 64\)"),
        (torch.ones(64), r"got \(64,\)"),
        (torch.full((64, 64), float("nan")), "not numbers"),
    ],
)
def test_bad_masks(zero, mask, message):
    with pytest.raises(ForgetError, match=message):
        zero(mask=mask)


def test_tiles_cannot_be_masked(miniature, zero, encode):
    positive, negative = encode(ZEBRA), encode("")

    def tiled(apply, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        return torch.cat([apply(part, t, **c) for part in x.split(8, dim=-1)], -1)

    model = zero(mask=torch.ones(64, 64)).clone()
    model.set_model_unet_function_wrapper(tiled)
    with pytest.raises(ForgetError, match="latent area of 16x16, got 8x16"):
        sample(model, positive, negative)

"""Gated Forget Patch in sampling by the host: prompts stacked into a batch, other hooks, ControlNet."""

from dataclasses import replace

import pytest
import torch
from forget_me_not.nodes.adapter.model import ComfyModel
from forget_me_not.nodes.concepts.encode_prompt import EncodePrompt
from forget_me_not.nodes.host import add_hooks, apply_patch, patch_hooks
from forget_me_not.nodes.patches.gated_patch import GatedForgetPatch
from inprocess.sampling import control_net, sample

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import make_concept
from fmn_core.patch.patch import Factors, ForgetPatch

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

ZEBRA, HORSE, FOX = (f"a picture of a {name} in noto style" for name in ("zebra", "horse", "fox"))


@pytest.fixture(scope="module")
def patch(miniature):
    adapter = ComfyModel(*miniature[:2])
    settings = ClosedFormSettings(preserve_prompts=["horse", "fox"], imagined_words=100)
    with torch.inference_mode(False):
        return forget_closed_form(adapter, [make_concept(adapter, "zebra")], settings)


@pytest.fixture
def encode(miniature):
    return lambda text: EncodePrompt.execute(text, miniature[1]).args[0]


@pytest.fixture
def gate(miniature, patch):
    def run(positive, negative, **changes):
        inputs = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "threshold": 0.0, "curve": "step"}
        node = GatedForgetPatch
        given = {"clip": miniature[1], "patch_file": "", "forget_patch": patch, **inputs, **changes}
        return node.execute(positive=positive, negative=negative, **given).args

    return run


def test_a_synonym_that_the_model_named_does_not_pass_and_a_kept_one_does(miniature, patch, encode, gate):
    striped = encode("a picture of a striped animal in noto style")
    assert "striped" in patch.figures["synonyms"]
    assert "acts at 1.00" in gate(striped, None)[2]
    assert "acts at 0.00" in gate(striped, None, forget_patch=replace(patch, figures={}))[2]


def stacked(*conds):
    """One conditioning of several prompts, a picture each, as scheduling nodes make it."""
    return [[torch.cat([c[0][0] for c in conds]), conds[0][0][1]]]


def test_every_prompt_of_a_batch_is_treated_alone(miniature, patch, encode, gate):
    model, negative = miniature[0], encode("")
    prompts = stacked(encode(HORSE), encode(ZEBRA), encode(FOX))
    gated, same, report = gate(prompts, negative)
    assert report.splitlines()[2].count("acts at 1.00") == 1 and report.splitlines()[2].count("acts at 0.00") == 2
    plain = sample(model, prompts, negative, batch=3)
    found = sample(model, gated, same, batch=3)
    assert torch.equal(found[[0, 2]], plain[[0, 2]])
    # Only the positive prompt is near the concept, so the patch is on it alone.
    alone = sample(model, [add_hooks(encode(ZEBRA)[0], patch_hooks(patch, 1.0, 0.0, 1.0))], negative)
    unpatched = sample(model, encode(ZEBRA), negative)
    rows = sample(model, *gate(stacked(encode(ZEBRA), encode(HORSE)), negative)[:2], batch=2)
    assert (alone - unpatched).abs().max() > 0.05 and (rows[:1] - alone).abs().max() < 1e-3 * alone.abs().max()


def test_the_mask_of_a_batch_that_is_there_already_stays(miniature, encode, gate):
    """Half of each picture under one stacked conditioning, all of it under another."""
    half = torch.zeros(1, 128, 128)
    half[..., :64] = 1.0
    prompts = stacked(encode(ZEBRA), encode(HORSE))
    prompts = [[prompts[0][0], {**prompts[0][1], "mask": half, "mask_strength": 0.5}], *encode(FOX)]
    gated, same, _ = gate(prompts, encode(""))
    plain, found = (sample(miniature[0], *conds, batch=2) for conds in ((prompts, encode("")), (gated, same)))
    torch.testing.assert_close(found[1], plain[1], atol=1e-5, rtol=1e-5)
    assert (found[0] - plain[0]).abs().max() > 0.05


@pytest.mark.parametrize("prompt", [ZEBRA, HORSE])
def test_with_a_control_net(miniature, patch, encode, gate, prompt):
    from nodes import ControlNetApplyAdvanced

    picture = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(5))
    net = control_net()

    def controlled(positive, negative):
        return ControlNetApplyAdvanced().apply_controlnet(positive, negative, net, picture, 1.0, 0.0, 1.0)

    plain = sample(miniature[0], *controlled(encode(prompt), encode("")))
    before = sample(miniature[0], *controlled(*gate(encode(prompt), encode(""))[:2]))
    after = sample(miniature[0], *gate(*controlled(encode(prompt), encode("")))[:2])
    assert torch.equal(before, after)
    assert (plain - sample(miniature[0], encode(prompt), encode(""))).abs().max() > 1e-2
    assert torch.equal(plain, before) == (prompt == HORSE)
    both = apply_patch(miniature[0], patch, 1.0)[0]
    wanted = sample(both, *controlled(encode(ZEBRA), encode(ZEBRA)))
    found = sample(miniature[0], *controlled(*gate(encode(ZEBRA), encode(ZEBRA))[:2]))
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)


def test_hooks_that_are_there_already_stay(miniature, patch, encode, gate):
    other = ForgetPatch(
        {n: Factors(0.5 * f.up, f.down, f.alpha) for n, f in patch.factors.items()}, [], patch.base, {}, {}
    )
    hooked = [add_hooks(encode(ZEBRA)[0], patch_hooks(other, 1.0, 0.0, 1.0))]
    gated, same, _ = gate(hooked, encode(ZEBRA), strength=0.5)
    hooks = patch_hooks(patch, 1.0, 0.0, 1.0)
    wanted = [add_hooks(encode(ZEBRA)[0], hooks)]
    found = sample(miniature[0], gated, same)
    expected = sample(miniature[0], wanted, gate(encode(HORSE), encode(ZEBRA), strength=0.5)[1])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)

import dataclasses

import pytest
import torch
from toy_model import ToyModel

from fmn_core.closed_form.correction import correct_concept
from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.compose.fusion import fuse_patches
from fmn_core.compose.merge import MergeSettings, sum_patches
from fmn_core.compose.preserve_cost import preserve_cost
from fmn_core.compose.recorded import recorded_concepts
from fmn_core.concepts.concept import Concept
from fmn_core.errors import ForgetError
from fmn_core.patch.factors import matrix_root
from fmn_core.patch.file import load_patch, save_patch
from fmn_core.patch.patch import Factors, ForgetPatch
from fmn_core.patch.shrink import reduce_rank

pytestmark = pytest.mark.usefixtures("whole_prompts")

TEMPLATES = ["a photo of a {} in the park", "a {} on a table", "a drawing of a {} , detailed", "{}"]
EXACT = {"rank": 24, "tolerance": 0.0}


@pytest.fixture(scope="module")
def model():
    return ToyModel()


def concept(name):
    return Concept([name], "object", TEMPLATES)


@pytest.fixture(scope="module")
def alone(model):
    """Patches that forget one concept each."""
    settings = ClosedFormSettings(
        preserve_prompts=["a red barn"], imagined_words=40, vocabulary_words=0, overshoot=0.0, **EXACT
    )
    return [forget_closed_form(model, [concept(n)], settings) for n in ("zebra", "teapot", "wizard")]


def trained(patch):
    """The same change, said to come from a training by gradient."""
    return ForgetPatch(patch.factors, patch.concepts, patch.base, {**patch.settings, "method": "attention re-steering"})


def test_fusion_is_the_joint_solve(model, alone):
    fused = fuse_patches(model, alone, MergeSettings(**EXACT))
    settings = ClosedFormSettings(
        ridge=fused.figures["ridge"],
        preserve_weight=fused.figures["preserve_weight"],
        preserve_prompts=["a red barn"],
        imagined_words=40,
        vocabulary_words=0,
        overshoot=0.0,
        **EXACT,
    )
    joint = forget_closed_form(model, [concept(n) for n in ("zebra", "teapot", "wizard")], settings)
    assert fused.factors.keys() == joint.factors.keys()
    for name, factors in joint.factors.items():
        torch.testing.assert_close(fused.factors[name].delta(), factors.delta(), atol=1e-4, rtol=1e-3)
    assert sorted(p for c in fused.concepts for p in c["phrases"]) == ["teapot", "wizard", "zebra"]


def test_a_fused_patch_can_be_fused_again(model, alone):
    at_once = fuse_patches(model, alone, MergeSettings(**EXACT))
    in_turn = fuse_patches(
        model, [fuse_patches(model, alone[:2], MergeSettings(**EXACT)), alone[2]], MergeSettings(**EXACT)
    )
    for name, factors in at_once.factors.items():
        torch.testing.assert_close(in_turn.factors[name].delta(), factors.delta(), atol=1e-4, rtol=1e-3)


def test_fusion_of_trained_patches_minimises_what_it_says(model, alone):
    """Autograd, not algebra: the gradient of sum_i |(dW - dW_i) C_i|^2 / n + w |dW P|^2 + lambda |dW|^2 is zero there."""
    from fmn_core.closed_form.collect import collect_moments
    from fmn_core.concepts.preserve import preserve_groups

    given = [trained(p) for p in alone[:2]]
    fused = fuse_patches(model, given, MergeSettings(**EXACT))
    concepts, lines = [concept("zebra"), concept("teapot")], ["a red barn"]
    one = [sum_halves(collect_moments(model, [c], preserve_groups(model, [c], lines, True), 40)) for c in concepts]
    both = sum_halves(collect_moments(model, concepts, preserve_groups(model, concepts, lines, True), 40))
    ridge, weight = fused.figures["ridge"], fused.figures["preserve_weight"]
    n, p = sum(m.sources for m in one), both.preserved
    absolute = ridge * (both.cc / n + weight * both.pp / p).trace() / model.dim
    for name, factors in fused.factors.items():
        dw = factors.delta().double().requires_grad_()
        objective = weight * ((dw @ both.pp) * dw).sum() / p + absolute * (dw**2).sum()
        for patch, moments in zip(given, one):
            off = dw - patch.factors[name].delta().double()
            objective = objective + ((off @ moments.cc) * off).sum() / n
        objective.backward()
        assert dw.grad.abs().max() < 1e-4


def sum_halves(halves):
    return halves[0] + halves[1]


def test_a_sum_is_the_weighted_sum(alone):
    strengths = [1.0, 0.5, -2.0]
    summed = sum_patches(alone, MergeSettings(strengths, **EXACT))
    for name, factors in summed.factors.items():
        wanted = sum(s * p.factors[name].delta() for s, p in zip(strengths, alone))
        torch.testing.assert_close(factors.delta(), wanted, atol=1e-5, rtol=1e-4)


def test_fusion_moves_preserve_prompts_less_than_the_sum(model, alone):
    fused, summed = fuse_patches(model, alone), sum_patches(alone)
    costs = preserve_cost(model, alone, [fused, summed])
    assert 0 < costs[0] < costs[1]
    assert min(fused.figures["effect_kept"]) > 0.5


def test_the_file_says_enough_to_fuse(model, alone, tmp_path):
    loaded = []
    for number, patch in enumerate(alone):
        save_patch(patch, tmp_path / f"{number}.safetensors", torch.float32)
        loaded.append(load_patch(tmp_path / f"{number}.safetensors"))
    assert [c.templates for p in loaded for c in recorded_concepts(p)] == [TEMPLATES] * 3
    direct, read = fuse_patches(model, alone), fuse_patches(model, loaded)
    for name, factors in direct.factors.items():
        torch.testing.assert_close(read.factors[name].delta(), factors.delta(), atol=1e-4, rtol=1e-3)


def foreign():
    g = torch.Generator().manual_seed(5)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
    return ForgetPatch(
        {name: Factors(torch.randn(32, 2, generator=g), torch.randn(2, 24, generator=g), 1.0)}, [], {}, {}
    )


def test_a_lora_of_another_tool_can_only_be_summed(model, alone):
    summed = sum_patches([alone[0], foreign()])
    assert summed.factors.keys() == alone[0].factors.keys()
    with pytest.raises(ForgetError, match="a LoRA without .*It can only be summed"):
        fuse_patches(model, [alone[0], foreign()])
    assert preserve_cost(model, [foreign(), foreign()], [foreign()]) == []


@pytest.mark.parametrize("merge", [sum_patches, lambda patches, s=None: fuse_patches(ToyModel(), patches, s)])
def test_what_cannot_be_merged(merge, alone):
    with pytest.raises(ForgetError, match="Expected 2 to 100 patches to merge, got 1"):
        merge(alone[:1])
    with pytest.raises(ForgetError, match="Expected 3 strengths, one for each patch, got 2"):
        merge(alone, MergeSettings([1.0, 1.0]))
    with pytest.raises(ForgetError, match="Expected strengths as list, got nan"):
        merge(alone, MergeSettings([1.0, float("nan"), 1.0]))
    name = next(iter(alone[0].factors))
    wide = ForgetPatch({name: Factors(torch.ones(16, 1), torch.ones(1, 99), 1.0)}, alone[0].concepts, {}, {})
    with pytest.raises(ForgetError, match="patches for one architecture.*Merge patches of the same base model"):
        merge([alone[0], wide])


def test_patches_for_another_text_encoder_and_the_same_concept_twice(alone):
    with pytest.raises(ForgetError, match="of a CLIP of width 20, got a change of lora_unet"):
        fuse_patches(ToyModel(dim=20), alone)
    with pytest.raises(ForgetError, match="Expected every concept once, got the phrase 'zebra' twice"):
        fuse_patches(ToyModel(), [alone[0], alone[0]])


def test_an_inverted_concept_travels_in_the_metadata_and_is_fused(model, alone, tmp_path):
    word = {"l": torch.randn(2, model.dim, generator=torch.Generator().manual_seed(3))}
    inverted = Concept([], "object", TEMPLATES, word)
    settings = ClosedFormSettings(
        preserve_prompts=["a red barn"], imagined_words=40, vocabulary_words=0, overshoot=0.0, **EXACT
    )
    patch = forget_closed_form(model, [inverted], settings)
    save_patch(patch, tmp_path / "a.safetensors", torch.float32)
    read = load_patch(tmp_path / "a.safetensors")
    [found] = recorded_concepts(read)
    assert torch.equal(found.embedding["l"], word["l"]) and found.phrases == [] and found.templates == TEMPLATES
    fused = fuse_patches(model, [alone[0], read], MergeSettings(**EXACT))
    weights = {"ridge": fused.figures["ridge"], "preserve_weight": fused.figures["preserve_weight"]}
    joint = forget_closed_form(model, [concept("zebra"), inverted], dataclasses.replace(settings, **weights))
    for name, factors in joint.factors.items():
        torch.testing.assert_close(fused.factors[name].delta(), factors.delta(), atol=1e-4, rtol=1e-3)


def test_a_correction_is_fused_as_a_correction(model, alone):
    word = {"l": torch.randn(1, model.dim, generator=torch.Generator().manual_seed(3))}
    settings = ClosedFormSettings(imagined_words=40, vocabulary_words=0, overshoot=0.0, **EXACT)
    inverted = Concept([], "object", TEMPLATES, word)
    patch = correct_concept(model, "apple", ["green apple"], inverted, settings)
    fused = fuse_patches(model, [alone[0], patch], MergeSettings(**EXACT))
    assert min(fused.figures["effect_kept"]) > 0.5
    assert fused.concepts[1]["corrects"] == "apple" and "green apple" in fused.settings["preserve_prompts"]


@pytest.mark.parametrize(
    "embedding",
    [None, {"l": {"shape": [1, 24], "float32": "AAAA"}}, {"l": {"shape": [10**9, 24], "float32": ""}}, {"l": 3}],
)
def test_vectors_that_metadata_cannot_bring_back(model, alone, embedding):
    saved = {"phrases": [], "kind": "object", "vectors": 1} | ({"embedding": embedding} if embedding else {})
    odd = ForgetPatch(alone[1].factors, [saved], alone[1].base, alone[1].settings)
    with pytest.raises(ForgetError, match="an inverted concept whose vectors are not in its metadata"):
        fuse_patches(model, [alone[0], odd])


def test_settings_of_a_stranger_are_not_believed(model, alone):
    bad = {"imagined_words": 10**9, "preserve_prompts": [1, {}], "ridge": "x", "use_everyday_captions": 3}
    odd = ForgetPatch(alone[1].factors, alone[1].concepts, alone[1].base, {**alone[1].settings, **bad}, {"ridge": "y"})
    fused = fuse_patches(model, [alone[0], odd])
    assert fused.settings["imagined_words"] <= 1600 and all(
        isinstance(x, str) for x in fused.settings["preserve_prompts"]
    )


def test_reduction_is_the_best_of_its_rank():
    g = torch.Generator().manual_seed(1)
    factors = Factors(torch.randn(20, 9, generator=g), torch.randn(9, 14, generator=g), 4.5)
    smaller, residual = reduce_rank(factors, 4)
    u, s, vh = torch.linalg.svd(factors.delta().double())
    best = (u[:, :4] * s[:4]) @ vh[:4]
    torch.testing.assert_close(smaller.delta().double(), best, atol=1e-5, rtol=1e-4)
    assert residual == pytest.approx(float((s[4:] ** 2).sum() / (s**2).sum()), rel=1e-6)
    assert smaller.rank == 4 and smaller.up.norm() == pytest.approx(float(smaller.down.norm()), rel=1e-4)


def test_reduction_weighs_inputs_by_their_second_moment():
    g = torch.Generator().manual_seed(1)
    factors = Factors(torch.randn(20, 9, generator=g), torch.randn(9, 14, generator=g), 9.0)
    inputs = torch.randn(500, 14, generator=g, dtype=torch.float64) * torch.logspace(-2, 1, 14)
    moment = inputs.T @ inputs
    plain, weighted = reduce_rank(factors, 3)[0], reduce_rank(factors, 3, 0.0, matrix_root(moment))[0]

    def error(found):
        return float((((found.delta() - factors.delta()).double() @ inputs.T) ** 2).sum())

    assert error(weighted) < error(plain)
    _, residual = reduce_rank(factors, 3, 0.0, matrix_root(moment))
    total = float(((factors.delta().double() @ inputs.T) ** 2).sum())
    assert residual == pytest.approx(error(weighted) / total, rel=1e-3)


def test_reduction_of_kernels_and_of_nothing():
    g = torch.Generator().manual_seed(1)
    factors = Factors(torch.randn(8, 4, 1, 1, generator=g), torch.randn(4, 3, 3, 3, generator=g), 4.0)
    same, residual = reduce_rank(factors, 4)
    torch.testing.assert_close(same.delta(), factors.delta(), atol=1e-5, rtol=1e-4)
    assert same.up.shape == (8, 4, 1, 1) and same.down.shape == (4, 3, 3, 3) and residual < 1e-12
    nothing, residual = reduce_rank(Factors(torch.zeros(5, 3), torch.zeros(3, 6), 3.0), 2)
    assert (
        nothing.rank == 1 and residual == 0.0 and torch.isfinite(nothing.up).all() and nothing.delta().abs().max() == 0
    )

"""What is done with patches of transformers: gated, scheduled, merged, looked into; on random models of the host's classes."""

import pytest
import tiny_flux
import tiny_transformers
import torch
from forget_me_not.nodes import host
from forget_me_not.nodes.adapter.transformer import ComfyTransformer, text_model
from forget_me_not.nodes.concepts.encode_prompt import EncodePrompt
from forget_me_not.nodes.patches.gated_patch import GatedForgetPatch
from forget_me_not.nodes.patches.merge_patches import FUSION, SIDE_BY_SIDE, SUM, MergeForgetPatches
from forget_me_not.nodes.patches.patch_info import ForgetPatchInfo
from forget_me_not.nodes.patches.schedule_patch import ScheduleForgetPatch
from inprocess.sampling import sample
from model_state import assert_untouched, state

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.compose import gate as gate_module
from fmn_core.compose.gate import ConceptGate
from fmn_core.concepts.concept import Concept, make_concept
from fmn_core.concepts.preserve import encode_imagined
from fmn_core.errors import ForgetError
from fmn_core.patch.parts import parts_of

# The text encoders of SD 3 know few tokens here.
CAPTIONS = ["a photo of a house", "a photo of a table", "a teapot on a table"]
ZEBRA, GUITAR, HOUSE = (f"a photo of a {name}" for name in ("zebra", "guitar", "house"))
SETTINGS = ClosedFormSettings(
    overshoot=0.0,
    imagined_words=8,
    vocabulary_words=0,
    use_everyday_captions=False,
    preserve_prompts=[HOUSE, "a teapot on a table"],
)
WHERE = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}


@pytest.fixture(scope="module")
def flux():
    return tiny_flux.flux(128, 64)


@pytest.fixture(scope="module")
def patches(flux):
    adapter = ComfyTransformer(*flux)
    return [forget_closed_form(adapter, [make_concept(adapter, name)], SETTINGS) for name in ("zebra", "guitar")]


@pytest.fixture
def few_prompts(monkeypatch):
    """A gate with few background prompts, to be quick."""
    monkeypatch.setattr(gate_module, "everyday_captions", lambda: CAPTIONS)
    monkeypatch.setattr(gate_module, "encode_imagined", lambda text, concepts: encode_imagined(text, concepts, 8))


def encode(clip, text):
    return EncodePrompt.execute(text, clip).args[0]


def drawn(model, positive, negative):
    return sample(model, positive, negative, size=(8, 8), channels=16)


def test_a_gated_patch_acts_on_its_concept_alone(flux, patches, few_prompts):
    model, clip = flux
    before = state(*flux)
    with torch.inference_mode():
        zebra, house, empty = (encode(clip, text) for text in (ZEBRA, HOUSE, ""))
        gated = {"clip": clip, "patch_file": "", "forget_patch": patches[0], "threshold": 0.0, "curve": "step", **WHERE}
        near, none, report = GatedForgetPatch.execute(positive=zebra, negative=empty, **gated).args
        far, _, report_far = GatedForgetPatch.execute(positive=house, negative=None, **gated).args
        assert "acts at 1.00" in report and "acts at 0.00" in report_far
        patched, matched = host.apply_patch(model, patches[0], 1.0)
        assert matched == 2
        through_hooks, applied, plain = (
            drawn(model, near, none),
            drawn(patched, zebra, empty),
            drawn(model, zebra, empty),
        )
        assert (applied - plain).norm() > 0.01 * plain.norm()
        # The gate leaves the negative prompt alone, which the applied patch moves a little.
        assert (through_hooks - applied).norm() < 0.3 * (applied - plain).norm()
        assert torch.equal(drawn(model, far, empty), drawn(model, house, empty))
    assert_untouched(*flux, before)


def test_a_scheduled_patch_acts_for_its_part_of_the_sampling(flux, patches):
    model, clip = flux
    with torch.inference_mode():
        zebra, empty = encode(clip, ZEBRA), encode(clip, "")
        given = {"patch_file": "", "forget_patch": patches[0], "apply_to": "positive and negative"}
        whole, _, _ = ScheduleForgetPatch.execute(positive=zebra, **given, **WHERE).args
        never, _, _ = ScheduleForgetPatch.execute(positive=zebra, **given, **WHERE | {"strength": 0.0}).args
        assert (drawn(model, whole, empty) - drawn(model, zebra, empty)).norm() > 0
        assert torch.equal(drawn(model, never, empty), drawn(model, zebra, empty))


@pytest.mark.parametrize("method", [FUSION, SUM, SIDE_BY_SIDE])
def test_merged_patches_forget_both(flux, patches, method):
    inputs = {"clip": flux[1], "patches": "", "method": method, "rank": 16, "file_name": ""}
    with torch.inference_mode():
        merged, report = MergeForgetPatches.execute(**inputs, patch_1=patches[0], patch_2=patches[1]).args
    assert "forgets: zebra; guitar" in report and "2 layers" in report
    assert len(parts_of(merged)) == (2 if method == SIDE_BY_SIDE else 1)
    part, wanted = parts_of(merged)[0], patches[:1] if method == SIDE_BY_SIDE else patches
    adapter = ComfyTransformer(*flux)
    [full] = adapter.encode([ZEBRA])
    for name, factors in part.factors.items():
        moved, alone = (
            sum(f.delta().float() @ _read(name, full) for f in fs)
            for fs in ([factors], [p.factors[name] for p in wanted])
        )
        assert (moved - alone).norm() < (0.6 if "vector" in name else 0.5) * alone.norm(), name


def _read(name, full):
    """What a layer reads of a prompt: its pooled vector, or its last row."""
    return full.pooled[0] if "vector" in name else full.context[-1]


def test_patch_info_knows_the_model(flux, patches, miniature):
    with torch.inference_mode():
        text, _, _ = ForgetPatchInfo.execute("", forget_patch=patches[0], model=flux[0]).args
    assert "transformer-64x128" in text and "2 of 2 layers match; the same base" in text
    with torch.inference_mode(), pytest.raises(ForgetError, match="Choose a patch made for this family of models"):
        ForgetPatchInfo.execute("", forget_patch=patches[0], model=miniature[0])


@pytest.mark.parametrize("name", [n for n in tiny_transformers.TINY if n not in tiny_transformers.SLOW])
def test_a_gate_reads_conditionings_as_its_own_prompts(name, few_prompts):
    if not tiny_transformers.can_be_made(name):
        pytest.skip(f"this host has no {name}")
    _, clip, _ = tiny_transformers.tiny(name)
    text = text_model(clip)
    gate = ConceptGate(text, [Concept(["zebra"], "object", ["a photo of a {}", "a {} on a table"])])
    for prompt in (ZEBRA, HOUSE):
        [[context, _]] = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        assert gate.cosine(context[0]) == pytest.approx(gate.cosine(text.encode([prompt])[0].context), abs=1e-3)
    assert gate.overlap(text.encode([ZEBRA])[0].tokens) == 1 and gate.overlap(text.encode([HOUSE])[0].tokens) < 1


def test_fusion_is_refused_where_it_would_need_the_model(patches):
    _, clip, _ = tiny_transformers.tiny("Wan")
    inputs = {"clip": clip, "patches": "", "method": FUSION, "rank": 16, "file_name": ""}
    with pytest.raises(ForgetError, match="got those of Wan. Choose side by side"):
        MergeForgetPatches.execute(**inputs, patch_1=patches[0], patch_2=patches[1])

"""A closed-form edit of values to zero, against Zero Concept Attention; and the closed form's options through their node."""

import pytest
import torch
from forget_me_not.nodes.adapter.effective_attention import SampledModel
from forget_me_not.nodes.adapter.model import ComfyModel
from forget_me_not.nodes.attention.zero_attention import ZeroConceptAttention
from forget_me_not.nodes.forget.closed_form_options import ClosedFormOptions
from forget_me_not.nodes.forget.train_patch import TrainForgetPatch
from forget_me_not.nodes.host import apply_patch, load

from fmn_core.closed_form.moments import Moments
from fmn_core.concepts.concept import Name, name_columns
from fmn_core.errors import ForgetError
from fmn_core.patch.factors import weighted_range
from fmn_core.patch.patch import ForgetPatch, kohya_name
from fmn_core.patch.shrink import balanced

pytestmark = pytest.mark.usefixtures("as_the_host_runs_nodes")

PROMPT = "a picture of a zebra in noto style"
DEFAULTS = {
    "target": "ablated prompt", "substitute": "", "precision": "float64 on the CPU", "ridge": 0.0,
    "preserve_weight": 0.0, "imagined_words": 20, "everyday_captions": True,
}  # fmt: skip


def prediction(model, clip):
    adapter = SampledModel(model, clip)
    load(adapter.patcher)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 5
    return adapter.denoise(noise, torch.tensor([5.0]), adapter.encode([PROMPT]))


def test_values_solved_to_zero_are_zero_attention(miniature):
    """The phrase's column to zero, every other column of the prompt kept: one UNet call gives what the node gives."""
    model, clip, _ = miniature
    adapter = ComfyModel(model, clip)
    prompt = adapter.encode([PROMPT])[0]
    columns = name_columns(adapter, prompt, Name("zebra"))
    others = [i for i in range(77) if i not in columns]
    moments = Moments.empty(prompt.context.shape[1])
    moments.add_pair(prompt.context[columns], torch.zeros(len(columns), prompt.context.shape[1]))
    moments.add_preserved(prompt.context[others])
    edit, system = moments.solve(1e-9, 1.0), moments.second_moment(1e-9, 1.0)
    basis, _ = weighted_range(edit, system, 1e-12, 192)
    names = [(layer.name, "to_v") for layer in adapter.cross_attention()]
    factors = {
        kohya_name(*n): balanced(w.double() @ basis, basis.T @ edit) for n, w in zip(names, adapter.weights(names))
    }
    patched, _ = apply_patch(model, ForgetPatch(factors, [], {}, {}, {}), 1.0)
    zeroed = ZeroConceptAttention.execute(model, clip, "zebra", 1.0, "none", "all", 0.0, 1.0, False).args[0]
    before, edited, reference = (prediction(m, clip) for m in (model, patched, zeroed))
    assert (edited - reference).norm() < 1e-3 * (before - reference).norm()


@pytest.fixture
def trained(miniature):
    def run(train="auto", method="closed form", phrase="zebra", kind="object", **changes):
        options = ClosedFormOptions.execute(**(DEFAULTS | changes)).args[0]
        inputs = {
            "phrase": phrase, "kind": kind, "method": method, "preserve_prompts": "", "preservation": 1.0, "steps": 1,
            "learning_rate": 0.0, "rank": 32, "train": train, "loss": "paper", "end_token": "first", "target_mass": 0.0, "seed": 0,
        }  # fmt: skip
        node = TrainForgetPatch
        return node.execute(miniature[0], miniature[1], "", options=options, **inputs).args

    return run


def test_options_reach_the_solve(trained):
    patch = trained(target="substitute", substitute="horse", ridge=1e-3, everyday_captions=False)[1]
    chosen = {k: patch.settings[k] for k in ("target", "substitute", "ridge", "imagined_words")}
    assert chosen == {
        "target": "substitute",
        "substitute": "horse",
        "ridge": 1e-3,
        "imagined_words": 20,
    }
    assert patch.figures["ridge"] == 1e-3 and not patch.settings["use_everyday_captions"]


def test_options_for_the_other_method_lie_idle(trained):
    assert trained(method="attention re-steering", target="zero")[1].settings["method"] == "attention re-steering"


def test_choices_without_effect_are_refused(trained):
    with pytest.raises(ForgetError, match="Type one, such as"):
        trained(target="substitute")


def test_the_report_advises_a_substitute_for_a_style_alone(trained):
    advice = "Closed Form Options takes a substitute"
    assert advice in trained(phrase="noto", kind="style")[3]
    assert advice not in trained(phrase="noto", kind="style", target="substitute", substitute="fluent")[3]
    assert advice not in trained()[3]
    assert advice not in trained(phrase="noto", kind="style", method="attention re-steering")[3]


def test_attacks_between_solves_change_the_patch_and_are_reported(trained):
    plain, attacked = trained(), trained(attack_rounds=1)
    assert "attacked in 1 round by 2 searches of 15 steps" in attacked[3] and "attacked" not in plain[3]
    assert attacked[1].settings["attack_rounds"] == 1 and attacked[1].concepts == plain[1].concepts
    name = next(iter(plain[1].factors))
    before, after = (found[1].factors[name].delta() for found in (plain, attacked))
    assert (after - before).norm() > 0.02 * before.norm()


def test_attack_rounds_out_of_range_are_refused(trained):
    with pytest.raises(ForgetError, match="rounds from 1 to 10, got 11"):
        trained(attack_rounds=11)

"""The JSON of Forgetting Report: what was measured, and numbers that JSON has no word for."""

import json
import math

import numpy as np
import pytest
import torch
from forget_me_not.nodes.forget.train_patch import TrainForgetPatch
from inprocess.forget_report.parts import CURVES, SCORES, no_such_constant, patch, where
from prompts import train_inputs

from fmn_core import __version__


def test_the_json_says_what_was_measured(run):
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.rand(3, 24, 40, 3, generator=generator) for _ in range(2))
    one = patch(CURVES, [{"phrases": ["zebra"], "kind": "object", "embedding": {"x": [0.5]}}], seed=7)
    _, said, _ = run(before, after, forget_patch=one, scores=SCORES)
    found = json.loads(said, parse_constant=no_such_constant)
    assert found["version"] == __version__ and found["base"] == {"architecture": "stable-diffusion-v1"}
    assert found["concepts"] == [{"phrases": ["zebra"], "kind": "object"}] and found["settings"] == {"seed": 7}
    assert found["figures"] == CURVES and found["figure"] == "report_00001_.png"
    assert found["scores"] == [SCORES[0], SCORES[1] | {"value": "NaN"}]
    reference = np.mean((after.double().numpy() - before.double().numpy()) ** 2)
    assert found["mean_squared_drift"] == pytest.approx(reference, rel=1e-5)
    assert list(found) == sorted(found)


def test_numbers_that_are_not_finite_are_strings(run):
    one = patch({"a": math.nan, "b": [math.inf, {"c": -math.inf}]})
    found = json.loads(run(forget_patch=one)[1], parse_constant=no_such_constant)
    assert found["figures"] == {"a": "NaN", "b": ["Infinity", {"c": "-Infinity"}]}


def test_without_a_patch_the_json_has_the_same_keys(run):
    found = json.loads(run()[1])
    assert found.keys() == json.loads(run(forget_patch=patch())[1]).keys()
    assert found["concepts"] == found["scores"] == [] and found["base"] == found["settings"] == found["figures"] == {}


def test_pictures_that_are_not_finite(run):
    figure, said, _ = run(before=torch.full((1, 16, 16, 3), math.nan), after=torch.full((1, 16, 16, 3), 7.0))
    assert (
        torch.isfinite(figure).all()
        and json.loads(said, parse_constant=no_such_constant)["mean_squared_drift"] == "NaN"
    )


def test_a_real_training_by_gradient_brings_its_curves(run, miniature):
    """From Train Forget Patch: as many points as steps, and the figures as they are in the patch."""
    model, clip, _ = miniature
    inputs = train_inputs(method="attention re-steering", steps=3, file_name="") | {"model": model, "clip": clip}
    with torch.inference_mode():
        trained = TrainForgetPatch.execute(**inputs).args[1]
    bare, (figure, said, _) = run()[0], run(forget_patch=trained)
    assert figure.shape[1] > bare.shape[1] + 300 and len(where(figure, (214, 69, 65))[0]) > 300
    found = json.loads(said, parse_constant=no_such_constant)["figures"]
    assert found == trained.figures and len(found["losses"]) == 3 and found["drift"][-1][0] == 3

"""Content keys: different content has different keys, equal content has one."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_model import ToyModel

from fmn_core.errors import ForgetError
from fmn_core.model.content_key import PROBE_PROMPT, content_key, model_key, text_key

REPOSITORY = Path(__file__).resolve().parents[2]


DIFFERENT = [
    (), ("",), ("", ""), ("abc",), (["a", "b"], "c"), (["a"], "b", "c"), ("a", ["b", "c"]),
    ([],), ([[]],), ([], []), ({},), (None,), (False,), (0,), (0.0,), (-0.0,), ("0",), (b"0",), (1,), (True,), (1.0,), (-1,),
    (10**30,), (float("nan"),), ({"a": 1},), ({"a": "1"},), ({"b": 1},), ({1: "a"},), ({"a": {"b": 1}},), ({"a": {}, "b": 1},), ("a", 1),
    (torch.zeros(2),), (torch.zeros(1, 2),), (torch.zeros(2, 1),), (torch.zeros(3),), (torch.zeros(2).half(),), (torch.zeros(2).bfloat16(),),
    (torch.zeros(2, dtype=torch.int32),), (-torch.zeros(2),), (torch.zeros(1), torch.zeros(1)), (torch.zeros(0),), (torch.zeros(0, 3),),
    (torch.tensor(0.0),), (torch.zeros(2).tolist(),), (torch.zeros(2, dtype=torch.bool),), ("\ud800",),
]  # fmt: skip


# What stands between two parts, if lengths were not written or meant nothing, inside of one.
SEPARATORS = ["", "str", "\0" * 16 + "str", "\0" * 7 + "\3" + "str", ",", "\0", "', '"]
DIFFERENT += [(f"a{s}b", "c") for s in SEPARATORS] + [("a", f"b{s}c") for s in SEPARATORS]


def test_different_content_has_different_keys():
    keys = [content_key(*parts) for parts in DIFFERENT]
    assert len(set(keys)) == len(keys)
    assert all(len(k) == 64 and int(k, 16) >= 0 for k in keys)


def test_random_nestings_differ_exactly_when_their_content_does():
    rng = random.Random(0)

    def value(depth):
        kind = rng.randrange(6 if depth else 3)
        if kind < 3:
            return (rng.choice(["", "a", "ab", "b"]), rng.randrange(3), rng.choice([None, 0.5]))[kind]
        if kind < 5:
            return [value(depth - 1) for _ in range(rng.randrange(3))]
        return {rng.choice("ab"): value(depth - 1) for _ in range(rng.randrange(3))}

    drawn = [value(3) for _ in range(3000)]
    # repr is unambiguous for these, but for the order of dicts
    seen = {}
    for part in drawn:
        seen.setdefault(content_key(part), set()).add(repr(ordered(part)))
    assert all(len(v) == 1 for v in seen.values())
    assert len(seen) == len({repr(ordered(p)) for p in drawn}) > 500


def ordered(part):
    if isinstance(part, list):
        return [ordered(p) for p in part]
    return {k: ordered(part[k]) for k in sorted(part)} if isinstance(part, dict) else part


def test_equal_content_has_one_key():
    x = torch.randn(4, 6)
    assert content_key(x.t()) == content_key(x.t().contiguous()) != content_key(x)
    assert content_key(x[:, 1]) == content_key(x[:, 1].clone())
    assert content_key(torch.nn.Parameter(x)) == content_key(x)
    assert content_key({"a": 1, "b": x}) == content_key({"b": x, "a": 1})
    assert content_key(("a", 1)) == content_key(["a", 1])


def test_keys_are_the_same_in_another_process():
    code = "from fmn_core.model.content_key import content_key; print(content_key('a', {'b': [1, 2.5], 'a': None}))"
    out = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == content_key("a", {"b": [1, 2.5], "a": None})


def test_other_types_have_no_key():
    with pytest.raises(ForgetError, match="got object"):
        content_key("a", [object()])


def test_the_key_of_a_model_tells_models_apart_and_repeats():
    keys = [model_key(ToyModel(seed=s)) for s in (0, 1, 0)]
    assert keys[0] == keys[2] != keys[1]
    with torch.inference_mode():
        assert model_key(ToyModel()) == keys[0]
    assert text_key(ToyModel(seed=0)) == text_key(ToyModel(seed=0)) != text_key(ToyModel(seed=1))


@pytest.mark.parametrize("projection", ["to_q", "to_k", "to_v", "to_out.0"])
def test_a_low_rank_change_of_any_layer_changes_the_key(projection):
    model = ToyModel()
    before, text = model_key(model), text_key(model)
    for layer in model.layers:
        weight = layer.projections[projection].weight
        kept = weight.data.clone()
        weight.data = kept + 0.01 * torch.outer(*(torch.randn(n) for n in weight.shape))
        assert model_key(model) != before and text_key(model) == text
        weight.data = kept
    assert model_key(model) == before


class Flat(ToyModel):
    """No prompt's context reaches into the first dimension."""

    def encode(self, prompts, words=None):
        found = super().encode(prompts, words)
        for e in found:
            e.context[:, 0] = 0
        return found


def test_a_change_that_leaves_ordinary_prompts_alone_changes_the_key():
    model = Flat()
    before = model_key(model)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts = model.encode(["", PROBE_PROMPT])
    prediction = model.denoise(x, torch.ones(2), prompts)
    model.layers[0].projections["to_v"].weight.data[:, 0] += 0.01
    assert torch.equal(model.denoise(x, torch.ones(2), prompts), prediction)
    assert model_key(model) != before


def test_the_text_encoder_and_the_noise_levels_count():
    model = ToyModel()
    before, text = model_key(model), text_key(model)
    model.mix = model.mix * 1.05
    assert model_key(model) != before and text_key(model) != text
    one_word = ToyModel()
    one_word.table[one_word.ids("zebra")[0]] += 0.1
    assert text_key(one_word) != text
    schedule = ToyModel()
    levels = schedule.sigmas()
    levels[-1] += 1
    schedule.sigmas = lambda: levels
    assert model_key(schedule) != before

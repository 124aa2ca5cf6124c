"""What a stranger's file can do: be refused in a sentence, or load as what it is."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fmn_core.errors import ForgetError
from fmn_core.patch.file import load_patch
from fmn_core.patch.patch import ForgetPatch
from tools import hostile_files

GOOD = hostile_files.good_file()
MUTATIONS = 1000
SLOWEST = 2.0


def timed_outcome(path: Path) -> tuple[ForgetPatch | None, float]:
    """The patch that a file holds, or None where it is refused as it should be, and this thread's seconds."""
    started, found, message = time.thread_time(), None, ""
    try:
        found = load_patch(path)
    except ForgetError as error:
        message = str(error)
    assert "\n" not in message and len(message) < 800
    return found, time.thread_time() - started


def outcome(path: Path) -> ForgetPatch | None:
    """The patch that a file holds, or None where it is refused as it should be, in SLOWEST seconds at most."""
    found, seconds = timed_outcome(path)
    if seconds >= SLOWEST:
        # Garbage of the tests before may have been collected meanwhile; a file that is slow by itself is slow again.
        found, seconds = timed_outcome(path)
    assert seconds < SLOWEST
    return found


def check_whole(patch: ForgetPatch) -> None:
    """That what was loaded can be used: finite, of matching shapes, with metadata of the form that it should have."""
    for factors in patch.factors.values():
        assert factors.up.shape[1] == factors.down.shape[0] == factors.rank >= 1
        assert torch.isfinite(factors.delta()).all()
    assert all(isinstance(p, str) for c in patch.concepts for p in c["phrases"])
    assert isinstance(patch.settings, dict) and isinstance(patch.figures, dict) and isinstance(patch.base, dict)
    patch.metadata()


@settings(
    max_examples=MUTATIONS,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(kind=st.sampled_from(hostile_files.KINDS), seed=st.integers(0, 10**9))
def test_mutated_files_are_refused_or_load(tmp_path, kind, seed):
    path = tmp_path / "a.safetensors"
    path.write_bytes(hostile_files.mutate(GOOD, kind, seed))
    found = outcome(path)
    if found is not None:
        check_whole(found)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    big = hostile_files.good_patch(40)
    save_file(big.state_dict(), path, big.metadata())
    data = path.read_bytes()
    for size in [*range(0, len(data), 1024), len(data) - 1]:
        path.write_bytes(data[:size])
        assert outcome(path) is None
    path.write_bytes(data)
    assert len(outcome(path).factors) == 40


@pytest.mark.parametrize("count", [100_000, 19_998])
def test_very_many_keys(tmp_path, count):
    tensors = {
        f"lora_unet_a{n // 3}.{('alpha', 'lora_up.weight', 'lora_down.weight')[n % 3]}": torch.ones(1, 1)
        for n in range(count)
    }
    save_file(tensors, tmp_path / "a.safetensors")
    found = outcome(tmp_path / "a.safetensors")
    assert (found is None) == (count > 20_000)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10_000_000,
        "[" * 2_000_000,
        '{"a":' * 1_000_000,
        "[" + "1," * 3_000_000 + "1]",
        "NaN",
        '[{"phrases": 1}, {"kind": []}, 3]',
    ],
    ids=["10 MB", "nested lists", "nested dicts", "a long list", "not a number", "other types"],
)
@pytest.mark.parametrize("key", ["fmn.concepts", "fmn.figures"])
def test_metadata_of_any_size_and_form(tmp_path, key, text):
    patch = hostile_files.good_patch()
    save_file(patch.state_dict(), tmp_path / "a.safetensors", patch.metadata() | {key: text})
    found = outcome(tmp_path / "a.safetensors")
    check_whole(found)
    assert key != "fmn.concepts" or found.concepts == []


def test_duplicate_and_overlapping_tensors(tmp_path):
    header, body = hostile_files.split_file(GOOD)
    key = next(k for k in header if k.endswith("lora_up.weight"))
    twice = json.dumps(header)[:-1] + f', "{key}": {json.dumps(header[key])}}}'
    shared = {**header, key.replace("attn2_to_v", "attn2_to_k"): header[key]}
    for name, text in (("twice", twice.encode()), ("shared", json.dumps(shared).encode())):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(hostile_files.join_file(text, body))
        found = outcome(path)
        if found is not None:
            check_whole(found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "found none at"),
        (lambda path: path.symlink_to(path.parent / "nothing"), "found none at"),
        (lambda path: path.symlink_to("/etc/hostname"), "corrupt, cut short or of another format"),
        (lambda path: os.mkfifo(path), "found none at"),
    ],
    ids=["folder", "dangling link", "link out of the folder", "pipe"],
)
def test_what_is_no_file(tmp_path, make, message):
    path = tmp_path / "a.safetensors"
    make(path)
    with pytest.raises(ForgetError, match=message):
        load_patch(path)


@pytest.mark.parametrize("case", ["rank 0", "huge product", "negative alpha", "kernel in the up"])
def test_factors_that_make_no_sense(tmp_path, case):
    name = hostile_files.LAYER
    up, down, alpha = torch.ones(4, 2), torch.ones(2, 5), torch.tensor(2.0)
    changed = {
        "rank 0": (torch.ones(4, 0), torch.ones(0, 5), alpha),
        "huge product": (up * 1e30, down * 1e30, alpha),
        "negative alpha": (up, down, torch.tensor(-2.0)),
        "kernel in the up": (torch.ones(4, 2, 3, 3), torch.ones(2, 5, 1, 1), alpha),
    }[case]
    tensors = dict(zip((f"{name}.lora_up.weight", f"{name}.lora_down.weight", f"{name}.alpha"), changed))
    save_file(tensors, tmp_path / "a.safetensors")
    found = outcome(tmp_path / "a.safetensors")
    assert (found is not None) == (case == "negative alpha")


MEASURED = """
import resource, sys
from pathlib import Path
import torch, safetensors, safetensors.torch
from fmn_core.patch.file import load_patch
from tools import hostile_files
from fmn_core.errors import ForgetError
load_patch(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_patch(Path(sys.argv[2]))
except ForgetError as error:
    print("refused:", error, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("case", ["weights", "metadata", "keys"])
def test_memory_stays_below_four_times_the_file(tmp_path, case):
    small, path = tmp_path / "small.safetensors", tmp_path / "a.safetensors"
    patch = hostile_files.good_patch()
    save_file(patch.state_dict(), small, patch.metadata())
    if case == "weights":
        tensors = {
            f"{hostile_files.LAYER}.lora_up.weight": torch.ones(5_000_000, 4),
            f"{hostile_files.LAYER}.lora_down.weight": torch.ones(4, 16),
        }
        save_file({k: v.half() for k, v in tensors.items()}, path)
    elif case == "metadata":
        save_file(patch.state_dict(), path, patch.metadata() | {"fmn.figures": '{"a": "' + "x" * 30_000_000 + '"}'})
    else:
        save_file({f"lora_unet_a{n}.alpha": torch.ones(100) for n in range(100_000)}, path)
    script = subprocess.run(
        [sys.executable, "-c", MEASURED, str(small), str(path)],
        cwd=Path(hostile_files.__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )
    kilobytes = int(script.stdout)
    assert kilobytes * 1024 < 4 * path.stat().st_size, script.stderr

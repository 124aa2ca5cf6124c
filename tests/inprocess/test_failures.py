"""Out of memory and a full disk at any moment of any method: no file, MODEL and CLIP as they were, the next run works."""

import contextlib
import os
import resource
from pathlib import Path

import pytest
import torch
from forget_me_not.nodes import host
from forget_me_not.nodes.adapter.model import ComfyModel
from forget_me_not.nodes.forget.concept_correction import ConceptCorrection
from forget_me_not.nodes.forget.train_patch import TrainForgetPatch
from forget_me_not.nodes.host.saving import save_under_free_name
from forget_me_not.nodes.patches.merge_patches import MergeForgetPatches
from forget_me_not.nodes.patches.shrink_patch import ShrinkForgetPatch
from forget_me_not.nodes.scores.attack_patch import AttackForgetPatch
from forget_me_not.nodes.training.invert_concept import InvertConcept
from forget_me_not.nodes.training.visual_pairs import VisualDenoisingPairs
from forget_me_not.nodes.ui.destination import check_folder
from forget_me_not.nodes.ui.forget_options import ForgetOptions
from model_state import assert_untouched, state
from prompts import correct, invert, pairs, train_inputs
from torch.utils._python_dispatch import TorchDispatchMode

from fmn_core.closed_form.forget import forget_closed_form
from fmn_core.closed_form.settings import ClosedFormSettings
from fmn_core.concepts.concept import make_concept
from fmn_core.errors import ForgetError

RESTEERING, VISUAL = "attention re-steering", "visual denoising"
ATTACK = {
    "model": 0, "clip": 0, "vae": 0, "phrase": "zebra", "kind": "object", "attack": "embedding", "file_name": "attack",
    "steps": 2, "batch": 1, "tokens": 1, "candidates": 4, "seed": 0,
}  # fmt: skip
# Where in a run memory ends, as shares of all its operations.
MOMENTS = (0.02, 0.5, 0.99)


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """Folders of this test's own for patches and embeddings."""
    for name in ("patch_root", "embedding_root"):
        monkeypatch.setattr(host, name, lambda name=name: tmp_path / name)
    return [tmp_path / "patch_root", tmp_path / "embedding_root"]


@pytest.fixture(scope="module")
def made(miniature):
    """Two patches to merge."""
    adapter = ComfyModel(*miniature[:2])
    with torch.inference_mode(False):
        settings = ClosedFormSettings(imagined_words=20)
        return [forget_closed_form(adapter, [make_concept(adapter, n)], settings) for n in ("zebra", "dog")]


@pytest.fixture
def run(miniature, made, folders):
    """Runs a node as the host does, in inference mode, on the miniature."""
    images = torch.rand(2, 128, 128, 3, generator=torch.Generator().manual_seed(0))
    nodes = {
        "closed form": (TrainForgetPatch, train_inputs(preserve_prompts="horse")),
        RESTEERING: (TrainForgetPatch, train_inputs(method=RESTEERING, steps=2)),
        VISUAL: (TrainForgetPatch, train_inputs(method=VISUAL, steps=1) | {"options": ForgetOptions(pairs=2)}),
        "pairs": (VisualDenoisingPairs, pairs(steps=2)["pairs"]["inputs"]),
        "inversion": (
            InvertConcept,
            invert(inversion_steps=2)["invert"]["inputs"] | {"images": images},
        ),
        "correction": (
            ConceptCorrection,
            correct(inversion_steps=1, report_samples=0)["correct"]["inputs"] | {"images": images},
        ),
        "merge": (
            MergeForgetPatches,
            {
                "clip": 0,
                "patches": "",
                "method": "fusion",
                "rank": 64,
                "file_name": "m",
                "patch_1": made[0],
                "patch_2": made[1],
            },
        ),
        "shrink": (
            ShrinkForgetPatch,
            {
                "patch_file": "",
                "rank": 2,
                "tolerance": 0.0,
                "precision": "fp16",
                "file_name": "s",
                "forget_patch": made[0],
            },
        ),
        "attack": (AttackForgetPatch, ATTACK | {"images": images}),
    }

    def execute(case):
        node, inputs = nodes[case]
        parts = dict(zip(("model", "clip", "vae"), miniature))
        with torch.inference_mode():
            return node.execute(**inputs | {k: v for k, v in parts.items() if k in inputs}).args

    return execute


# One of each way to train; the others take their time.
QUICK_CASES = ("closed form", RESTEERING, "inversion", "merge")
CASES = ("closed form", RESTEERING, VISUAL, "pairs", "inversion", "correction", "merge", "shrink")


class OutOfMemoryAt(TorchDispatchMode):
    """Counts operations, and lets memory end at one of them."""

    def __init__(self, number: float = float("inf")):
        super().__init__()
        self.number, self.calls = number, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        if self.calls == self.number:
            raise torch.OutOfMemoryError("simulated")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", [c if c in QUICK_CASES else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_out_of_memory_at_any_moment(run, miniature, folders, case):
    before = state(*miniature[:2])
    run(case)  # what the cache then holds is not made again
    with OutOfMemoryAt() as whole:
        run(case)
    saved = {p for folder in folders if folder.exists() for p in folder.iterdir()}
    for file in saved:
        file.unlink()
    failed = 0
    for share in MOMENTS:
        moment = OutOfMemoryAt(max(1, int(share * whole.calls)))
        try:
            with moment:
                run(case)
        except torch.OutOfMemoryError:
            failed += 1
            assert not [p for folder in folders if folder.exists() for p in folder.iterdir()]
        # where it did not fail, the host found another way, such as its tiled VAE
        assert moment.calls >= moment.number
        assert_untouched(*miniature[:2], before)
        for file in saved:
            file.unlink(missing_ok=True)
    assert failed >= 2
    run(case)
    assert {p for folder in folders if folder.exists() for p in folder.iterdir()} == saved


SAVING = ("closed form", RESTEERING, "inversion", "correction", "merge", "shrink", "attack")


@contextlib.contextmanager
def file_size_limit(size: int):
    """The disk takes no file larger than `size` bytes."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


class FullDiskAt(OutOfMemoryAt):
    """Counts operations, and from one of them on the disk is full."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        if self.calls == self.number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
        return func(*args, **(kwargs or {}))


def files_in(folders):
    return [p for folder in folders if folder.is_dir() for p in folder.iterdir()]


@pytest.mark.parametrize("case", SAVING)
def test_a_full_disk_is_one_sentence_before_the_work_and_leaves_nothing(run, miniature, folders, case):
    before = state(*miniature[:2])
    with OutOfMemoryAt() as whole:
        run(case)
    for file in files_in(folders):
        file.unlink()
    with file_size_limit(500), OutOfMemoryAt() as operations:
        with pytest.raises(ForgetError, match="the disk refused: .*Free some space") as caught:
            run(case)
    assert "\n" not in str(caught.value) and operations.calls < 0.05 * whole.calls + 5
    assert_untouched(*miniature[:2], before)
    assert not files_in(folders)
    run(case)
    assert files_in(folders)


@pytest.mark.parametrize("case", SAVING)
def test_a_file_in_place_of_the_folder_is_one_sentence_before_the_work(run, folders, case):
    for folder in folders:
        folder.write_text("a file")
    with OutOfMemoryAt() as operations, pytest.raises(ForgetError, match="Expected to save in .*the disk refused"):
        run(case)
    assert operations.calls < 100 and all(folder.read_text() == "a file" for folder in folders)


@pytest.mark.parametrize("case", SAVING)
def test_a_disk_that_is_full_at_the_end_costs_no_result(run, miniature, folders, case):
    """The folder could be written when the work began: what the work made is returned, and the report begins with the reason."""
    before = state(*miniature[:2])
    with FullDiskAt() as whole:
        whole_results = run(case)
    for file in files_in(folders):
        file.unlink()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with FullDiskAt(int(0.8 * whole.calls)):
            results = run(case)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    report = results[-1].splitlines()
    assert report[0].startswith("not saved: Expected to write") and "Free some space" in report[0]
    assert not any(line.startswith(("saved", "not saved: no file")) for line in report)
    assert len(results) == len(whole_results) and all(r is not None for r in results)
    assert not files_in(folders)
    assert_untouched(*miniature[:2], before)


def test_a_folder_that_cannot_be_written_to_is_told_by_an_ordinary_user(folders):
    """As root every folder can be written to: a process of another user tries."""
    if os.getuid() != 0:
        pytest.skip("changing the user takes root")
    folder = folders[0]
    folder.mkdir(mode=0o555)
    os.chmod(folder, 0o555)
    for parent in folder.parents:
        if parent.stat().st_uid == 0 and parent != Path("/"):
            os.chmod(parent, parent.stat().st_mode | 0o011)
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            check_folder(folder)
            os.write(told, b"no error")
        except ForgetError as error:
            os.write(told, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    sentence = os.read(ready, 10_000).decode()
    assert sentence.startswith("Expected to save in") and "Permission denied" in sentence
    assert not list(folder.iterdir())


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(folders):
    """Another process takes the name between the look and the write."""
    folders[0].mkdir()
    taken = Path(folders[0] / "a.safetensors")
    taken.write_bytes(b"another")
    path = save_under_free_name(folders[0], "a", b"content")
    assert taken.read_bytes() == b"another" and path.name == "a_00002_.safetensors" and path.read_bytes() == b"content"
    assert save_under_free_name(folders[0], "a", b"content") == path
    assert sorted(p.name for p in folders[0].iterdir()) == ["a.safetensors", "a_00002_.safetensors"]

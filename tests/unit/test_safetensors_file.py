import os
import random
import signal
import time

import pytest

from fmn_core.safetensors_file import write_new, write_whole

CONTENT = {letter: bytes([letter]) * 3_000_000 for letter in b"ab"}


@pytest.mark.parametrize("write", [write_whole, write_new])
def test_kill_at_any_moment_leaves_whole_files(tmp_path, write):
    """A child writes without end and is killed, 40 times; under the final names there are only whole files."""
    rng, seen = random.Random(0), 0
    for attempt in range(40):
        child = os.fork()
        if child == 0:
            try:
                for n in range(10**6):
                    write(
                        CONTENT[b"ab"[n % 2]],
                        tmp_path / (f"{attempt}-{n}.safetensors" if write is write_new else "one.safetensors"),
                    )
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0.001, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for file in tmp_path.iterdir():
            if file.suffix == ".safetensors":
                data = file.read_bytes()
                assert data == CONTENT[data[0]]
                seen += 1
                file.unlink()
    assert seen > 10


def test_what_a_killed_process_left_is_swept_an_hour_later(tmp_path):
    old, young = tmp_path / ".fmn-old.tmp", tmp_path / ".fmn-young.tmp"
    for file in (old, young):
        file.write_bytes(b"cut")
    os.utime(old, (time.time() - 7200,) * 2)
    write_whole(b"x", tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".fmn-young.tmp", "a"]


def test_a_new_file_never_replaces_one(tmp_path):
    path = tmp_path / "a"
    assert write_new(b"1", path) and not write_new(b"2", path)
    assert path.read_bytes() == b"1" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a"
    assert write_new(b"1", path) and not write_new(b"2", path)
    assert path.read_bytes() == b"1" and [p.name for p in tmp_path.iterdir()] == ["a"]

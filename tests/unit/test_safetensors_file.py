import errno
import json
import os
import random
import signal
import stat
import time
import tracemalloc

import pytest

from fmn_core.safetensors_file import same_content, write_new, write_whole

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


DAY = 86400


def left_behind(folder, name, age):
    """A temporary file that was last written `age` seconds ago."""
    file = folder / name
    file.write_bytes(b"cut")
    os.utime(file, (file.stat().st_mtime - age,) * 2)
    return file


def test_what_a_killed_process_left_is_swept_a_day_later(tmp_path):
    old = left_behind(tmp_path, ".fmn-old.tmp", DAY + 3600)
    for name, age in ((".fmn-young.tmp", 0), (".fmn-afternoon.tmp", 6 * 3600), (".fmn-tomorrow.tmp", -DAY)):
        left_behind(tmp_path, name, age)
    foreign = left_behind(tmp_path, "mine.tmp", 2 * DAY)
    write_whole(b"x", tmp_path / "a")
    assert not old.exists() and foreign.exists()
    assert sorted(p.name for p in tmp_path.glob(".fmn-*")) == [
        ".fmn-afternoon.tmp",
        ".fmn-tomorrow.tmp",
        ".fmn-young.tmp",
    ]


@pytest.mark.parametrize("write", [write_whole, write_new])
def test_a_clock_that_is_ahead_sweeps_nothing_that_is_being_written(tmp_path, monkeypatch, write):
    """Servers that share a folder need not agree on the time: the file system's own clock counts."""
    in_flight, now = left_behind(tmp_path, ".fmn-other.tmp", 60), time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3 * DAY)
    write(b"x", tmp_path / "a")
    assert in_flight.exists()


def test_the_data_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    """What a crash of the machine may leave under the final name is the whole file: synced first, then named, then the folder."""
    events, sync, link, replace = [], os.fsync, os.link, os.replace

    def synced(handle):
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", lambda *paths: (events.append("name"), link(*paths)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("name"), replace(*paths)))
    for write in (write_new, write_whole):
        events.clear()
        write(b"x", tmp_path / write.__name__)
        assert events == ["file", "name", "folder"]


def test_a_file_system_that_cannot_sync_is_no_error(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(os, "fsync", refuse)
    assert write_new(b"x", tmp_path / "a") and (tmp_path / "a").read_bytes() == b"x"


def test_a_disk_that_fails_while_it_syncs_leaves_nothing(tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_new(b"x", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


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


def race(folder, processes, rounds):
    """Each of several processes writes its own content under one name after another; returns how many of them won each name."""
    ready, start = os.pipe()
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            try:
                os.read(ready, 1)
                won = [n for n in range(rounds) if write_new(bytes([number]) * 1000, folder / f"{n}")]
                (folder / f"won {number}").write_text(json.dumps(won))
            finally:
                os._exit(0)
        children.append(child)
    os.write(start, b"x" * processes)
    for child in children:
        os.waitpid(child, 0)
    won = {number: json.loads((folder / f"won {number}").read_text()) for number in range(processes)}
    return [[number for number, names in won.items() if n in names] for n in range(rounds)]


@pytest.mark.parametrize("links", [True, False])
def test_of_processes_that_race_for_a_name_one_wins(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(PermissionError("no links here")))
    winners = race(tmp_path, processes=4, rounds=300)
    assert all(len(w) == 1 for w in winners)
    assert all((tmp_path / f"{n}").read_bytes() == bytes(w) * 1000 for n, w in enumerate(winners))
    assert not list(tmp_path.glob(".fmn-*"))


def test_a_name_that_a_killed_process_locked_is_taken_for_a_day_only(tmp_path, monkeypatch):
    def refuse(*paths):
        raise PermissionError("no links here")

    def die(*paths):
        os._exit(1)

    monkeypatch.setattr(os, "link", refuse)
    child = os.fork()
    if child == 0:
        os.replace = die
        write_new(b"1", tmp_path / "a")
    os.waitpid(child, 0)
    assert not write_new(b"2", tmp_path / "a") and not (tmp_path / "a").exists()
    for file in tmp_path.iterdir():
        os.utime(file, (file.stat().st_mtime - DAY - 3600,) * 2)
    assert write_new(b"2", tmp_path / "a") and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_large_file_of_the_same_name_is_not_read_whole(tmp_path):
    """3 GB on the disk that take no room there; the same size, but other content, is read in pieces."""
    large = tmp_path / "large"
    with large.open("wb") as f:
        f.truncate(3_000_000_000)
    data = bytes(40_000_000)
    same, other = tmp_path / "same", tmp_path / "other"
    same.write_bytes(data)
    other.write_bytes(data[:-1] + b"x")
    tracemalloc.start()
    assert not same_content(large, data) and same_content(same, data) and not same_content(other, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000
    assert not same_content(tmp_path, data) and not same_content(tmp_path / "nothing", data)
    assert same_content(same, data) is True

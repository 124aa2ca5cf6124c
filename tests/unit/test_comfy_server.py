"""The server that tests and demo run: it is waited for as long as it gives a sign of life."""

import asyncio
import threading
import time

import pytest

from tools.comfy_server import ComfyServer


class Slow:
    """A websocket whose one message comes after some seconds."""

    def __init__(self, seconds):
        self.at = time.monotonic() + seconds

    async def receive(self):
        await asyncio.sleep(max(0.0, self.at - time.monotonic()))
        return "message"


def server(tmp_path, silence):
    found = ComfyServer(tmp_path, silence)
    found.log_path.write_text("first line\n\n")
    return found


def test_a_server_whose_log_grows_is_waited_for(tmp_path):
    running, stop = server(tmp_path, silence=0.5), threading.Event()

    def write():
        while not stop.wait(0.1):
            with running.log_path.open("a") as log:
                log.write("another line\n")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert asyncio.run(running._next_message(Slow(2.0))) == "message"
    finally:
        stop.set()
        thread.join()
    assert running.last_log_line() == "another line"


def test_a_server_that_falls_silent_is_not(tmp_path):
    started = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(server(tmp_path, silence=0.2)._next_message(Slow(600)))
    assert time.monotonic() - started < 60


def test_no_limit_is_shorter_than_ten_minutes_of_silence(tmp_path):
    assert ComfyServer(tmp_path).silence >= 600

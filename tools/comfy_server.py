"""A real ComfyUI server with this pack in it, and a client for its HTTP and websocket API."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools import comfy_host

PACK_FOLDER = "comfyui-forget-me-not"
# Seconds without any sign of life after which a server counts as hung: a loaded machine is slow, but it says something.
SILENCE = 1200.0
_REPORT_EVERY = 15.0


class NodeError(RuntimeError):
    """A prompt that failed: `node` is the node id, the message that of the exception shown in the node."""

    def __init__(self, node: str, message: str, kind: str = ""):
        super().__init__(message)
        self.node, self.kind = node, kind


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class ComfyServer:
    """Starts ComfyUI on the CPU in a folder of its own, with the pack linked in, and stops it on exit."""

    def __init__(self, base: Path, silence: float = SILENCE, on_wait: Callable[[str], None] | None = None):
        self.base, self.silence, self.on_wait = base.resolve(), silence, on_wait
        self.url = f"127.0.0.1:{free_port()}"
        self.log_path = self.base / "server.log"
        self.process: subprocess.Popen | None = None

    @property
    def loras(self) -> Path:
        return self.base / "models" / "loras"

    def __enter__(self) -> ComfyServer:
        for name in ("custom_nodes", "models/loras", "models/embeddings", "input", "output", "user", "temp"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        link = self.base / "custom_nodes" / PACK_FOLDER
        if not link.exists():
            link.symlink_to(comfy_host.REPOSITORY, target_is_directory=True)
        command = [
            sys.executable,
            "main.py",
            "--cpu",
            "--base-directory",
            str(self.base),
            "--port",
            self.url.split(":")[1],
        ]
        command += [
            "--use-pytorch-cross-attention",
            "--disable-api-nodes",
            "--database-url",
            f"sqlite:///{self.base / 'user' / 'comfyui.db'}",
        ]
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK_FOLDER]
        path = os.pathsep.join(p for p in (str(comfy_host.SHIMS), os.environ.get("PYTHONPATH", "")) if p)
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=comfy_host.root(),
                env={**os.environ, "PYTHONPATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait()
        return self

    def __exit__(self, *exc) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def _wait(self) -> None:
        """Waits for the server to answer, for as long as its log grows; raises RuntimeError when it ends or falls silent."""
        written, last_sign, reported = 0, time.monotonic(), time.monotonic()
        reason = "ended before it answered"
        while self.process is not None and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
            if (size := self.log_path.stat().st_size) != written:
                written, last_sign = size, time.monotonic()
            if time.monotonic() - last_sign > self.silence:
                reason = f"said nothing for {self.silence:.0f} s"
                break
            if self.on_wait is not None and time.monotonic() - reported > _REPORT_EVERY:
                reported = time.monotonic()
                self.on_wait(f"waiting for ComfyUI to start; its log says: {self.last_log_line()}")
        tail = self.log_path.read_text(errors="replace")[-3000:]
        self.__exit__()
        raise RuntimeError(f"ComfyUI {reason}. The end of its log:\n{tail}")

    def last_log_line(self) -> str:
        """The newest line of the server's log that is not empty."""
        lines = [line.strip() for line in self.log_path.read_text(errors="replace")[-2000:].splitlines()]
        return next((line for line in reversed(lines) if line), "nothing yet")

    # --- HTTP ---

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.url}{path}", timeout=self.silence) as response:
            return response.read()

    def post(self, path: str, data: dict) -> dict:
        request = urllib.request.Request(
            f"http://{self.url}{path}", json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self.silence) as response:
                body = response.read()
                return json.loads(body) if body else {}
        except urllib.error.HTTPError as error:
            return {"status": error.code, **json.loads(error.read() or b"{}")}

    def object_info(self) -> dict:
        return json.loads(self.get("/object_info"))

    def image(self, entry: dict):
        """A saved or previewed image as PIL."""
        from PIL import Image

        query = urllib.parse.urlencode(
            {"filename": entry["filename"], "subfolder": entry["subfolder"], "type": entry["type"]}
        )
        return Image.open(io.BytesIO(self.get(f"/view?{query}"))).convert("RGB")

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    # --- running a prompt ---

    def run(self, prompt: dict, on_event: Callable[[str, dict], None] | None = None) -> dict:
        """Queues an API-format prompt, follows it over the websocket, returns its outputs by node id.

        `on_event(type, data)` sees every message; binary previews arrive as type "preview". Raises NodeError when a
        node fails, when the prompt is refused, and with kind "interrupted" when it is cancelled; TimeoutError when the server
        neither says anything nor writes to its log for `silence` seconds.
        """
        return asyncio.run(self._run(prompt, on_event or (lambda kind, data: None)))

    async def _run(self, prompt: dict, on_event: Callable[[str, dict], None]) -> dict:
        import aiohttp

        client = uuid.uuid4().hex
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"ws://{self.url}/ws?clientId={client}", max_msg_size=0) as ws,
        ):
            reply = await asyncio.to_thread(self.post, "/prompt", {"prompt": prompt, "client_id": client})
            if "prompt_id" not in reply or reply.get("node_errors"):
                raise _refusal(reply)
            await self._follow(ws, reply["prompt_id"], on_event)
            history = json.loads(await asyncio.to_thread(self.get, f"/history/{reply['prompt_id']}"))
            return history[reply["prompt_id"]]["outputs"]

    async def _follow(self, ws, prompt_id: str, on_event: Callable[[str, dict], None]) -> None:
        import aiohttp

        while True:
            message = await self._next_message(ws)
            if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
                raise ConnectionError(f"ComfyUI closed the connection. Its log says: {self.last_log_line()}")
            if message.type == aiohttp.WSMsgType.BINARY:
                on_event("preview", {"data": message.data})
                continue
            event = json.loads(message.data)
            kind, data = event["type"], event.get("data", {})
            on_event(kind, data)
            if data.get("prompt_id") != prompt_id:
                continue
            if kind == "execution_error":
                raise NodeError(data["node_id"], data["exception_message"].strip(), data["exception_type"])
            if kind == "execution_interrupted":
                raise NodeError(data["node_id"], "interrupted", "interrupted")
            # the last message of a prompt; at "execution_success" its history is not written yet
            if kind == "executing" and data.get("node") is None:
                return

    async def _next_message(self, ws) -> Any:
        """The server's next message, waited for as long as messages come or the log grows."""
        written = self.log_path.stat().st_size
        while True:
            try:
                return await asyncio.wait_for(ws.receive(), self.silence)
            except asyncio.TimeoutError:
                if written == (written := self.log_path.stat().st_size):
                    raise


def _refusal(reply: dict) -> NodeError:
    for node, errors in reply.get("node_errors", {}).items():
        first = errors["errors"][0]
        return NodeError(node, f"{first['message']}: {first['details']}", "validation")
    return NodeError("", str(reply.get("error", reply)), "validation")

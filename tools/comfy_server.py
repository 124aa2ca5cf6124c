"""A ComfyUI server with this pack, and a client for its HTTP and websocket API."""

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
# Seconds without a message or a log line after which a server counts as hung. A slow machine still writes to its log.
SILENCE = 1200.0
_REPORT_SECONDS = 15.0


class NodeError(RuntimeError):
    """A prompt failed, with the message that the page shows at the node.

    Attributes
    ----------
    node
        Id of the node; empty where the whole prompt was refused.
    kind
        Type of the exception; "validation" for a refused prompt, "interrupted" for a cancelled one.
    """

    def __init__(self, node: str, message: str, kind: str = ""):
        super().__init__(message)
        self.node, self.kind = node, kind


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class ComfyServer:
    """A ComfyUI on the CPU with this pack, which runs while the context is open.

    Parameters
    ----------
    base
        Folder for its models, input, output and log.
    silence
        Seconds without a message or a log line after which the server counts as hung.
    on_wait
        Called with a line of text now and then while the server starts.
    """

    def __init__(self, base: Path, silence: float = SILENCE, on_wait: Callable[[str], None] | None = None):
        self.base, self.silence, self.on_wait = base.resolve(), silence, on_wait
        self.url = f"127.0.0.1:{free_port()}"
        self.log_path = self.base / "server.log"
        self.process: subprocess.Popen | None = None

    @property
    def loras(self) -> Path:
        """The folder of LoRA files."""
        return self.base / "models" / "loras"

    def __enter__(self) -> ComfyServer:
        self._prepare_folder()
        path = os.pathsep.join(p for p in (str(comfy_host.SHIMS), os.environ.get("PYTHONPATH", "")) if p)
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                self._command(),
                cwd=comfy_host.root(),
                env={**os.environ, "PYTHONPATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_for_start()
        return self

    def _prepare_folder(self) -> None:
        for name in ("custom_nodes", "models/loras", "models/embeddings", "input", "output", "user", "temp"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        link = self.base / "custom_nodes" / PACK_FOLDER
        if not link.exists():
            link.symlink_to(comfy_host.REPOSITORY, target_is_directory=True)

    def _command(self) -> list[str]:
        database = f"sqlite:///{self.base / 'user' / 'comfyui.db'}"
        command = [sys.executable, "main.py", "--cpu", "--use-pytorch-cross-attention", "--disable-api-nodes"]
        command += ["--base-directory", str(self.base), "--port", self.url.split(":")[1], "--database-url", database]
        return [*command, "--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK_FOLDER]

    def __exit__(self, *exc) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def _wait_for_start(self) -> None:
        """Waits until the server answers. Raises RuntimeError when it ends, or writes nothing to its log for `silence` seconds."""
        log_size, last_growth, last_report = 0, time.monotonic(), time.monotonic()
        reason = "ended before it answered"
        while self.process is not None and self.process.poll() is None:
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
            if (size := self.log_path.stat().st_size) != log_size:
                log_size, last_growth = size, time.monotonic()
            if time.monotonic() - last_growth > self.silence:
                reason = f"said nothing for {self.silence:.0f} s"
                break
            if self.on_wait is not None and time.monotonic() - last_report > _REPORT_SECONDS:
                last_report = time.monotonic()
                self.on_wait(f"waiting for ComfyUI to start; its log says: {self.last_log_line()}")
        tail = self.log_path.read_text(errors="replace")[-3000:]
        self.__exit__()
        raise RuntimeError(f"ComfyUI {reason}. The end of its log:\n{tail}")

    def last_log_line(self) -> str:
        """The last line of the server's log that is not empty."""
        lines = [line.strip() for line in self.log_path.read_text(errors="replace")[-2000:].splitlines()]
        return next((line for line in reversed(lines) if line), "nothing yet")

    # --- HTTP ---

    def get(self, path: str) -> bytes:
        """Body of the answer to a GET request."""
        with urllib.request.urlopen(f"http://{self.url}{path}", timeout=self.silence) as response:
            return response.read()

    def post(self, path: str, data: dict) -> dict:
        """Answer to a POST request of JSON; on an HTTP error, its body and the status."""
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
        """The definitions of all nodes by id."""
        return json.loads(self.get("/object_info"))

    def image(self, entry: dict):
        """Downloads a saved or previewed image, as PIL in RGB. `entry` is its record in a node's outputs."""
        from PIL import Image

        query = urllib.parse.urlencode(
            {"filename": entry["filename"], "subfolder": entry["subfolder"], "type": entry["type"]}
        )
        return Image.open(io.BytesIO(self.get(f"/view?{query}"))).convert("RGB")

    def interrupt(self) -> None:
        """Cancels the prompt that is running."""
        self.post("/interrupt", {})

    # --- running a prompt ---

    def run(
        self, prompt: dict, on_event: Callable[[str, dict], None] | None = None, workflow: dict | None = None
    ) -> dict:
        """Runs a prompt in API format and returns its outputs by node id.

        Parameters
        ----------
        on_event
            Called with the type and data of every websocket message; binary previews have the type "preview".
        workflow
            The graph that a page sends along, for the metadata of pictures.

        Raises
        ------
        NodeError
            When a node fails, or the prompt is refused or cancelled.
        TimeoutError
            When the server sends no message and writes nothing to its log for `silence` seconds.
        """
        return asyncio.run(self._run(prompt, on_event or (lambda kind, data: None), workflow))

    async def _run(self, prompt: dict, on_event: Callable[[str, dict], None], workflow: dict | None) -> dict:
        import aiohttp

        client = uuid.uuid4().hex
        question = {"prompt": prompt, "client_id": client}
        if workflow is not None:
            question["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"ws://{self.url}/ws?clientId={client}", max_msg_size=0) as ws,
        ):
            reply = await asyncio.to_thread(self.post, "/prompt", question)
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
            # Comes after "execution_success", at which the history is not written yet.
            if kind == "executing" and data.get("node") is None:
                return

    async def _next_message(self, ws) -> Any:
        """Waits for the server's next message, as long as its log grows."""
        log_size = self.log_path.stat().st_size
        while True:
            try:
                return await asyncio.wait_for(ws.receive(), self.silence)
            except asyncio.TimeoutError:
                if log_size == (log_size := self.log_path.stat().st_size):
                    raise


def _refusal(reply: dict) -> NodeError:
    """The first error in the answer to a refused prompt."""
    for node, errors in reply.get("node_errors", {}).items():
        first = errors["errors"][0]
        return NodeError(node, f"{first['message']}: {first['details']}", "validation")
    return NodeError("", str(reply.get("error", reply)), "validation")

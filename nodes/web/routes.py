"""What the page asks the server: tokens of a text, the patches that are there, trainings that run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web

from ...fmn_core.concepts.templates import KINDS
from ...fmn_core.errors import ForgetError
from ...fmn_core.model.tokens import END_TOKEN_CHOICES
from .. import host
from . import monitor, patch_list, token_preview
from .requests import read_texts, refusal

ROOT = "/forget_me_not"


class Worker:
    """A thread for one kind of question, so that no other kind waits for it; beyond `most_waiting` of them it puts off."""

    def __init__(self, name: str, most_waiting: int = 8):
        self.most_waiting, self.waiting = most_waiting, 0
        self._executor = ThreadPoolExecutor(1, f"forget-me-not-{name}")

    async def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `work` returns; raises the web.HTTPException to answer with where too many wait."""
        if self.waiting >= self.most_waiting:
            raise refusal(web.HTTPServiceUnavailable, "Expected fewer questions at once. Ask again in a moment.")
        self.waiting += 1
        future = self._executor.submit(work, *args, **kwargs)
        # Counted until the work is done: a page that goes away ends its request, not the work.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done))
        return await asyncio.wrap_future(future)

    def _done(self) -> None:
        self.waiting -= 1


_tokens_worker, _patches_worker = Worker("tokens"), Worker("patches", most_waiting=64)


def register() -> None:
    """Adds the routes to the host's server, where there is one."""
    server = host.server()
    if server is None:
        return
    server.routes.post(f"{ROOT}/tokens")(_tokens)
    server.routes.get(f"{ROOT}/patches")(_patches)
    server.routes.get(f"{ROOT}/monitor")(_monitor)
    server.routes.post(f"{ROOT}/stop")(_stop)


async def _tokens(request: web.Request) -> web.Response:
    asked = await read_texts(request, ("node", "prompt", "phrase", "kind", "templates", "end_token"))
    asked["kind"] = asked["kind"] if asked["kind"] in KINDS else "object"
    asked["end_token"] = asked["end_token"] if asked["end_token"] in END_TOKEN_CHOICES else "none"
    try:
        return web.json_response(await _tokens_worker.run(token_preview.preview, **asked))
    except ForgetError as error:
        raise refusal(web.HTTPBadRequest, str(error)) from error


async def _patches(request: web.Request) -> web.Response:
    listed = await _patches_worker.run(patch_list.listed, request.query.get("node", ""))
    return web.json_response({"patches": listed})


async def _monitor(request: web.Request) -> web.Response:
    return web.json_response(monitor.states())


async def _stop(request: web.Request) -> web.Response:
    asked = await read_texts(request, ("node",))
    return web.json_response({"stopping": monitor.stop(asked["node"])})

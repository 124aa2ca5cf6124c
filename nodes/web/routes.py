"""The server's routes for the page: tokens of a text, patch list, training monitor and its stop button, freeing the cache."""

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
from ..adapter import references
from . import monitor, patch_list, token_preview
from .requests import read_texts, refusal

ROOT = "/forget_me_not"


class Worker:
    """One thread for requests of one kind, so that other kinds do not wait for them.

    Parameters
    ----------
    name
        Part of the thread's name.
    most_waiting
        Most requests that run or wait at the same time; further ones are refused.
    """

    def __init__(self, name: str, most_waiting: int = 8):
        self.most_waiting, self.waiting = most_waiting, 0
        self._executor = ThreadPoolExecutor(1, f"forget-me-not-{name}")

    async def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs `work` in the thread and returns its result; raises a web.HTTPException to answer with when too many wait."""
        if self.waiting >= self.most_waiting:
            raise refusal(web.HTTPServiceUnavailable, "Expected fewer questions at once. Ask again in a moment.")
        self.waiting += 1
        future = self._executor.submit(work, *args, **kwargs)
        # The request counts until the work is done, because closing the page ends the request but not the work.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._count_down))
        return await asyncio.wrap_future(future)

    def _count_down(self) -> None:
        self.waiting -= 1


_tokens_worker, _patches_worker = Worker("tokens"), Worker("patches", most_waiting=64)


def register() -> None:
    """Adds the routes to the host's server, if one runs."""
    server = host.server()
    if server is None:
        return
    server.routes.post(f"{ROOT}/tokens")(_tokens)
    server.routes.get(f"{ROOT}/patches")(_patches)
    server.routes.get(f"{ROOT}/monitor")(_monitor)
    server.routes.post(f"{ROOT}/stop")(_stop)
    server.routes.post(f"{ROOT}/clear_cache")(_clear_cache)


async def _tokens(request: web.Request) -> web.Response:
    texts = await read_texts(request, ("workflow", "node", "prompt", "phrase", "kind", "templates", "end_token"))
    texts["kind"] = texts["kind"] if texts["kind"] in KINDS else "object"
    texts["end_token"] = texts["end_token"] if texts["end_token"] in END_TOKEN_CHOICES else "none"
    try:
        return web.json_response(await _tokens_worker.run(token_preview.preview_tokens, **texts))
    except ForgetError as error:
        raise refusal(web.HTTPBadRequest, str(error)) from error


async def _patches(request: web.Request) -> web.Response:
    asked = {name: request.query.get(name, "") for name in ("workflow", "node", "loader", "file")}
    patches = await _patches_worker.run(patch_list.list_patches, **asked)
    return web.json_response({"patches": patches})


async def _monitor(request: web.Request) -> web.Response:
    return web.json_response(monitor.training_states())


async def _stop(request: web.Request) -> web.Response:
    texts = await read_texts(request, ("node",))
    return web.json_response({"stopping": monitor.request_stop(texts["node"])})


async def _clear_cache(request: web.Request) -> web.Response:
    await read_texts(request, ())
    return web.json_response({"megabytes": round(references.shared_cache().clear() / 1e6, 1)})

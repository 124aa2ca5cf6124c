"""What the page asks the server: tokens of a text, the patches that are there, trainings that run."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from ..fmn_core.errors import ForgetError
from ..fmn_core.templates import KINDS
from ..fmn_core.tokens import END_TOKEN_CHOICES
from . import host, monitor, patch_list, token_preview

ROOT = "/forget_me_not"


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
    try:
        asked = _texts(await request.json(), ("node", "prompt", "phrase", "kind", "templates", "end_token"))
        asked["kind"] = asked["kind"] if asked["kind"] in KINDS else "object"
        asked["end_token"] = asked["end_token"] if asked["end_token"] in END_TOKEN_CHOICES else "none"
        return web.json_response(await asyncio.to_thread(token_preview.preview, **asked))
    except (ForgetError, ValueError) as error:
        return web.json_response({"error": str(error)}, status=400)


async def _patches(request: web.Request) -> web.Response:
    return web.json_response({"patches": await asyncio.to_thread(patch_list.listed, request.query.get("node", ""))})


async def _monitor(request: web.Request) -> web.Response:
    return web.json_response(monitor.states())


async def _stop(request: web.Request) -> web.Response:
    try:
        asked = _texts(await request.json(), ("node",))
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response({"stopping": monitor.stop(asked["node"])})


def _texts(body: Any, names: tuple[str, ...]) -> dict[str, str]:
    """The texts of a request, empty where they are absent; raises ForgetError on anything else."""
    if not isinstance(body, dict) or not all(isinstance(body.get(n, ""), str) for n in names):
        raise ForgetError(f"Expected a JSON object of texts ({', '.join(names)}), got something else.")
    return {n: body.get(n, "") for n in names}

"""Reads posted requests: JSON of a bounded size, from the host's own pages only."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from .. import host

# The longest texts that the routes accept have 60,000 characters in all.
MOST_BYTES = 65_536


async def read_texts(request: web.Request, names: tuple[str, ...]) -> dict[str, str]:
    """Reads the named texts of a posted JSON object; absent ones are empty.

    Raises
    ------
    web.HTTPException
        The answer to send, with the body {"error": a sentence}: 415 where the body is not declared as JSON, 403 for a
        page without an origin, 413 for more than MOST_BYTES, 400 for anything but an object of texts.
    """
    if request.content_type != "application/json":
        # The browser lets a page of another site post plain text without a preflight request (CORS), but not JSON.
        raise refusal(web.HTTPUnsupportedMediaType, f"Expected application/json, got {request.content_type}.")
    if not host.origin_allowed(request.headers):
        raise refusal(web.HTTPForbidden, "Expected a request from a page of this server, got one without an origin.")
    return _texts(_parsed(await _body(request)), names)


def refusal(kind: type[web.HTTPException], sentence: str, **arguments: Any) -> web.HTTPException:
    """Creates an error response with the body {"error": sentence}."""
    return kind(text=json.dumps({"error": sentence}), content_type="application/json", **arguments)


async def _body(request: web.Request) -> bytes:
    """Reads the body of a request, but at most little more than MOST_BYTES of it."""
    size, data = request.content_length or 0, bytearray()
    if size <= MOST_BYTES:
        async for part in request.content.iter_any():
            data += part
            size = len(data)
            if size > MOST_BYTES:
                break
    if size > MOST_BYTES:
        raise refusal(
            web.HTTPRequestEntityTooLarge,
            f"Expected at most {MOST_BYTES:,} bytes, got more. Shorten the text.",
            max_size=MOST_BYTES,
            actual_size=size,
        )
    return bytes(data)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "lists or objects too deep in each other" if isinstance(error, RecursionError) else str(error)
        raise refusal(web.HTTPBadRequest, f"Expected JSON in UTF-8, got something else: {reason}.") from error


def _texts(content: Any, names: tuple[str, ...]) -> dict[str, str]:
    if not isinstance(content, dict) or not all(isinstance(content.get(name, ""), str) for name in names):
        sentence = f"Expected a JSON object of texts ({', '.join(names)}), got something else."
        raise refusal(web.HTTPBadRequest, sentence)
    texts = {name: content.get(name, "") for name in names}
    try:
        "".join(texts.values()).encode()
    except UnicodeEncodeError as error:
        # JSON can hold half of a surrogate pair as an escape.
        raise refusal(web.HTTPBadRequest, "Expected texts of whole characters, got half of one.") from error
    return texts

"""Reading what a page posts: JSON of a bounded size from the host's own pages, and nothing else."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from .. import host

# The longest texts that the routes take are 60,000 characters in all.
MOST_BYTES = 65_536


async def read_texts(request: web.Request, names: tuple[str, ...]) -> dict[str, str]:
    """The texts of a JSON object by name, empty where they are absent.

    Raises the web.HTTPException to answer with, whose body is {"error": a sentence}: 415 where the body is not declared to be JSON,
    403 for a page without an origin, 413 for more than MOST_BYTES, and 400 for anything that is not such an object.
    """
    if request.content_type != "application/json":
        # A page of another site can send plain text without asking the browser, JSON it cannot.
        raise refusal(web.HTTPUnsupportedMediaType, f"Expected application/json, got {request.content_type}.")
    if not host.origin_allowed(request.headers):
        raise refusal(web.HTTPForbidden, "Expected a request from a page of this server, got one without an origin.")
    return _texts(_parsed(await _body(request)), names)


def refusal(kind: type[web.HTTPException], sentence: str, **arguments: Any) -> web.HTTPException:
    """An answer other than success, with the reason as {"error": sentence}."""
    return kind(text=json.dumps({"error": sentence}), content_type="application/json", **arguments)


async def _body(request: web.Request) -> bytes:
    """The body, of which no more than MOST_BYTES are read."""
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


def _texts(found: Any, names: tuple[str, ...]) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(found.get(name, ""), str) for name in names):
        sentence = f"Expected a JSON object of texts ({', '.join(names)}), got something else."
        raise refusal(web.HTTPBadRequest, sentence)
    texts = {name: found.get(name, "") for name in names}
    try:
        "".join(texts.values()).encode()
    except UnicodeEncodeError as error:
        # Halves of a surrogate pair, each in an escape of its own.
        raise refusal(web.HTTPBadRequest, "Expected texts of whole characters, got half of one.") from error
    return texts

"""ForgetError, whose message users read, and `plain_text`, which makes text from unknown sources safe to show."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

LONGEST_MESSAGE = 2000
_ELLIPSIS = " ... "
_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
# Unicode categories: control and format characters (terminal codes, bidi overrides), surrogates, private use, unassigned.
_ESCAPED_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn")


class ForgetError(ValueError):
    """The input cannot be used. The message says what was expected, what came and what to do next.

    Notes
    -----
    The message goes through `plain_text`: the host logs and sends it, and a message that cannot be encoded would stop its worker.
    """

    # ComfyUI shows the name of an error's class with its module before it, except for the errors of Python itself.
    __module__ = "builtins"

    def __init__(self, message: str = ""):
        super().__init__(plain_text(message))

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        # By the class, pickle would look for it in `builtins`.
        return _unpickled, (str(self),)


def _unpickled(message: str) -> ForgetError:
    return ForgetError(message)


def plain_text(text: Any, longest: int = LONGEST_MESSAGE) -> str:
    r"""Turns any text into one line that every log, terminal and page can show.

    Parameters
    ----------
    text
        Any object; its `str` is shown.
    longest
        Greatest number of characters. Of a longer text the beginning and the end are kept.

    Notes
    -----
    Line breaks become a space, so that no text can add lines to a report. Control characters, bidi overrides and lone surrogates
    become escapes such as \u202e. All other characters stay as they are.
    """
    line = _BREAKS.sub(" ", _shorten(str(text), longest))
    return _shorten("".join(_escape(c) for c in line), longest)


def _escape(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) not in _ESCAPED_CATEGORIES:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _shorten(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    tail = longest // 4
    return text[: longest - tail - len(_ELLIPSIS)] + _ELLIPSIS + text[-tail:]

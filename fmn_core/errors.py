"""The one exception that users are meant to read, and text of strangers made fit to be shown."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

LONGEST_MESSAGE = 2000
_CUT = " ... "
_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
# Control and format characters (terminal codes, bidi overrides), lone surrogates, and what has no meaning in Unicode.
_ESCAPED = ("Cc", "Cf", "Cs", "Co", "Cn")


class ForgetError(ValueError):
    """Input that cannot be used; the message says what was expected, what came and what to do next.

    The message is plain text, see plain_text: the host logs and sends it, and one that cannot be encoded would stop its worker.
    """

    def __init__(self, message: str = ""):
        super().__init__(plain_text(message))


def plain_text(text: Any, longest: int = LONGEST_MESSAGE) -> str:
    r"""Text on one line that any log, terminal and page can show, of at most `longest` characters.

    Line breaks become a space, so that no text can add lines to a report; control characters, bidi overrides and lone surrogates become
    escapes such as \u202e. Of a longer text the beginning and the end are kept. Plain text stays what it is.
    """
    text = _shortened(str(text), longest)
    escaped = "".join(_escaped(c) for c in _BREAKS.sub(" ", text))
    return _shortened(escaped, longest)


def _escaped(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) not in _ESCAPED:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _shortened(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    end = longest // 4
    return text[: longest - end - len(_CUT)] + _CUT + text[-end:]

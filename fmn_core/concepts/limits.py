"""How much of a text is taken, whether it was typed into a node or stands in a file."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ForgetError

# A phrase has at most 75 tokens, a prompt a few hundred; the tokenizer's time grows with their characters.
LONGEST_PHRASE, LONGEST_LINE = 1_000, 4_000
# Of one concept, and of all concepts of one training, patch or merge together.
MOST_PHRASES, MOST_TEMPLATES, MOST_NAMES = 100, 500, 1_000
# Of preserve prompts and every other list in a text box.
MOST_LINES = 5_000


def check_lines(
    lines: Sequence[str], what: str = "lines", most: int = MOST_LINES, longest: int = LONGEST_LINE
) -> Sequence[str]:
    """Returns the lines; raises ForgetError on too many, on one that is too long, and on text that cannot be encoded."""
    if len(lines) > most:
        raise ForgetError(f"Expected at most {most:,} {what}, got {len(lines):,}. Leave some out.")
    for line in lines:
        if len(line) > longest:
            raise ForgetError(
                f"Expected {what} of at most {longest:,} characters each, got one of {len(line):,}: {line[:60]!r}... Shorten it."
            )
        if not is_unicode(line):
            raise ForgetError(
                f"Expected {what} of Unicode text, got a lone surrogate in {line[:60]!r}. Type the text again."
            )
    return lines


def is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates, which no tokenizer, log or file can encode."""
    return not any("\ud800" <= c <= "\udfff" for c in text)

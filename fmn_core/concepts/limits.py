"""Limits on the length and number of texts, both typed into nodes and read from files."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ForgetError

# A phrase has at most 75 tokens, a prompt a few hundred; the tokenizer's time grows with their characters.
LONGEST_PHRASE, LONGEST_LINE = 1_000, 4_000
# Phrases and templates of one concept; names of all concepts of a training, patch or merge.
MOST_PHRASES, MOST_TEMPLATES, MOST_NAMES = 100, 500, 1_000
# Preserve prompts, and the lines of every other list in a text box.
MOST_LINES = 5_000


def check_lines(
    lines: Sequence[str], subject: str = "lines", most: int = MOST_LINES, longest: int = LONGEST_LINE
) -> Sequence[str]:
    """Returns the lines unchanged if they keep to the limits.

    Parameters
    ----------
    lines
        Texts of one line each.
    subject
        What the lines are, in the plural, for the error.
    most
        Largest number of lines.
    longest
        Largest number of characters in a line.

    Raises
    ------
    ForgetError
        On too many lines, a line that is too long, and a lone surrogate, which cannot be encoded.
    """
    if len(lines) > most:
        raise ForgetError(f"Expected at most {most:,} {subject}, got {len(lines):,}. Leave some out.")
    for line in lines:
        if len(line) > longest:
            raise ForgetError(
                f"Expected {subject} of at most {longest:,} characters each, got one of {len(line):,}: {line[:60]!r}... Shorten it."
            )
        if not is_unicode(line):
            raise ForgetError(
                f"Expected {subject} of Unicode text, got a lone surrogate in {line[:60]!r}. Type the text again."
            )
    return lines


def is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates, which no tokenizer, log or file can encode."""
    return not any("\ud800" <= c <= "\udfff" for c in text)

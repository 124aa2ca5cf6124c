"""Errors can be logged, shown in a terminal and in the browser, whatever a stranger's file or request put into them."""

import pickle
import traceback

import pytest

from fmn_core.errors import LONGEST_MESSAGE, ForgetError, plain_text

HOSTILE = {
    "a lone surrogate": ("got \ud800.", "got \\ud800."),
    "a terminal code": ("got \x1b[2J.", "got \\x1b[2J."),
    "a bidi override": ("got \u202egpj.exe", "got \\u202egpj.exe"),
    "a line break": ("got a\nmatched 16 layers", "got a matched 16 layers"),
    "a line separator": ("got a\u2028b\r\nc\td", "got a b c d"),
    "a zero byte": ("got \0", "got \\x00"),
    "an astral control": ("got \U000e0001", "got \\U000e0001"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_message_is_plain_text(case):
    given, wanted = HOSTILE[case]
    error = ForgetError(given)
    assert str(error) == plain_text(given) == wanted
    str(error).encode()


def test_other_scripts_and_pictures_stay():
    text = "Expected a 猫, got Zoë’s עברית 🦓 ‖ x\u3000y"
    assert str(ForgetError(text)) == text


def test_a_long_message_keeps_its_beginning_and_its_end():
    text = str(ForgetError("Expected this. " + "x" * 10_000_000 + " Do that."))
    assert len(text) <= LONGEST_MESSAGE == 2000
    assert text.startswith("Expected this. xxx") and text.endswith("xxx Do that.") and " ... " in text


def test_escapes_do_not_lengthen_a_message_beyond_the_limit():
    assert len(str(ForgetError("\x1b" * 10_000))) <= LONGEST_MESSAGE
    assert len(plain_text("\U000e0001" * 10_000, 200)) <= 200


def test_an_error_survives_copies_unchanged():
    error = ForgetError("got \ud800" * 1000)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ForgetError and str(copy) == str(error) == str(ForgetError(str(error)))


def test_an_error_is_shown_without_the_module_of_its_class():
    assert traceback.format_exception_only(ForgetError("Expected a, got b.")) == ["ForgetError: Expected a, got b.\n"]


def test_anything_has_a_plain_text():
    assert plain_text(KeyError("a\nb")) == "'a\\nb'" and plain_text(3) == "3" and plain_text(None) == "None"

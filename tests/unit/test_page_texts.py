"""Texts that the page's scripts show: each has a Chinese translation with the same values."""

import re

from tools.comfy_host import REPOSITORY

SCRIPTS = REPOSITORY / "js"
TABLE = SCRIPTS / "texts_zh.js"
LITERAL = r'"((?:[^"\\]|\\.)*)"'
CHINESE = re.compile(r"[\u4e00-\u9fff]")
# The table, read as text: its keys are in quotes, and each translation follows on the same line or on the next.
TRANSLATIONS = re.findall(rf"^  {LITERAL}:\s+{LITERAL},$", TABLE.read_text(encoding="utf-8"), re.MULTILINE)


def shown():
    """Every text that a script shows through text("...")."""
    scripts = [path.read_text(encoding="utf-8") for path in SCRIPTS.glob("*.js") if path != TABLE]
    code = "\n".join(line for script in scripts for line in script.splitlines() if not line.lstrip().startswith("//"))
    return set(re.findall(rf"\btext\(\s*{LITERAL}", code))


def test_every_text_has_a_translation_and_every_translation_is_used():
    keys = [english for english, _ in TRANSLATIONS]
    assert len(keys) == len(set(keys)) and set(keys) == shown()


def test_translations_are_chinese_and_take_the_same_values():
    for english, chinese in TRANSLATIONS:
        assert CHINESE.search(chinese), english
        assert sorted(re.findall(r"\{\w+\}", chinese)) == sorted(re.findall(r"\{\w+\}", english)), english


def test_every_line_of_the_table_was_read():
    assert len(re.findall(rf"^  {LITERAL}:", TABLE.read_text(encoding="utf-8"), re.MULTILINE)) == len(TRANSLATIONS)

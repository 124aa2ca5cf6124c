"""Help pages in Chinese: one for every page in English, with the same parts, figures and names."""

import json
import re
from collections import Counter

import pytest

from tools.comfy_host import REPOSITORY

DOCS = REPOSITORY / "js" / "docs"
NODES = sorted(path.stem for path in DOCS.glob("*.md"))
CHINESE = re.compile(r"[\u4e00-\u9fff]")
# Parts of a page that both languages have equally often.
PARTS = {
    "headings": re.compile(r"^#+ ", re.MULTILINE),
    "bullets": re.compile(r"^ *- ", re.MULTILINE),
    "rows of tables": re.compile(r"^\|", re.MULTILINE),
    "names in bold": re.compile(r"\*\*.+?\*\*"),
}
# What both languages write in the same way; a sentence may name it elsewhere.
KEPT = {
    "figures": re.compile(r"\d+(?:\.\d+)?"),
    "code": re.compile(r"`[^`]+`"),
    "pictures": re.compile(r"(?<=\]\()\w+\.jpg(?=\))"),
}


NODE_DEFS = json.loads((REPOSITORY / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))


def page(node, language=""):
    """Text of a help page."""
    return (DOCS / node / f"{language}.md" if language else DOCS / f"{node}.md").read_text(encoding="utf-8")


def test_every_page_is_there_in_both_languages():
    assert NODES and sorted(path.parent.name for path in DOCS.glob("*/zh.md")) == NODES


@pytest.mark.parametrize("node", NODES)
def test_a_chinese_page_says_what_the_english_one_says(node):
    english, chinese = page(node), page(node, "zh")
    for part, pattern in PARTS.items():
        assert len(pattern.findall(chinese)) == len(pattern.findall(english)), part
    for kept, pattern in KEPT.items():
        assert Counter(pattern.findall(chinese)) == Counter(pattern.findall(english)), kept
    assert len(CHINESE.findall(chinese)) > 30


@pytest.mark.parametrize("node", NODES)
def test_bullets_name_inputs_and_outputs_as_the_node_shows_them(node):
    shown = {slot["name"] for part in ("inputs", "outputs") for slot in NODE_DEFS[node].get(part, {}).values()}
    heads = re.findall(r"^- (.+?)：", page(node, "zh"), re.MULTILINE)
    bold = [name for head in heads for name in re.findall(r"\*\*(.+?)\*\*", head)]
    named = {name for names in bold for name in names.split(" / ") if CHINESE.search(name)}
    assert named <= shown, named - shown


@pytest.mark.parametrize("node", NODES)
def test_pictures_of_a_page_are_there(node):
    pictures = KEPT["pictures"].findall(page(node))
    assert pictures and all((DOCS / name).is_file() for name in pictures)

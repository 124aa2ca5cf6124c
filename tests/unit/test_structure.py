"""Modules and functions stay short, and the glossary speaks of what is in the code."""

import ast
import re

import pytest

from tools.comfy_host import REPOSITORY

LONGEST_FUNCTION, LONGEST_MODULE = 60, 320
SOURCES = [
    p for folder in ("fmn_core", "nodes", "bench", "tools", "mini_sd") for p in (REPOSITORY / folder).rglob("*.py")
]
MODULES = [*SOURCES, *(REPOSITORY / "tests").rglob("*.py")]
GLOSSARY = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8")


def lengths(text: str) -> dict[str, int]:
    """Lines of every function of a module, by name."""
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}


def rows(heading: str) -> list[list[str]]:
    """The cells of a table of the glossary."""
    section = GLOSSARY.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_modules_and_functions_fit_on_a_screen(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_MODULE
    assert {name: lines for name, lines in lengths(text).items() if lines > LONGEST_FUNCTION} == {}


def test_what_is_too_long_is_seen():
    text = "def long():\n" + "    pass\n" * LONGEST_FUNCTION
    assert lengths(text) == {"long": LONGEST_FUNCTION + 1}


def test_the_code_that_the_glossary_names_is_there():
    sources = [p.read_text(encoding="utf-8") for p in (REPOSITORY / "fmn_core").rglob("*.py")]
    defined = set(re.findall(r"^(?:class |def )?(\w+)(?=[(:]| = )", "\n".join(sources), re.MULTILINE))
    named = {n for n in re.findall(r"`([\w.]+)`", GLOSSARY) if n.rsplit(".", 1)[-1][:1].isupper()}
    assert named and {n for n in named if n.rsplit(".", 1)[-1] not in defined} == set()


def test_every_word_has_one_row_and_is_used():
    """Used: in the sources or in what users read."""
    words = [re.sub(r"\s*\(.*\)", "", row[0]) for row in rows("Words")]
    assert len(words) == len(set(words)) and all(len(row) == 2 and row[1] for row in rows("Words"))
    paths = [*SOURCES, REPOSITORY / "README.md", *(REPOSITORY / "js" / "docs").glob("*.md")]
    text = " ".join(p.read_text(encoding="utf-8") for p in paths)
    # TargetPair and target_pair are the words "target pair".
    used = re.sub(r"\s+|_|(?<=[a-z])(?=[A-Z])", " ", text).lower()
    assert [word for word in words if word.lower() not in used] == []

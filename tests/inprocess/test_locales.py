"""The translations that the front end shows: en is what the schemas say, zh says the same of every node, input and output."""

import re

import pytest

from tools import locales

CHINESE = re.compile(r"[\u4e00-\u9fff]")
FILES = (locales.NODE_DEFS, locales.MAIN, locales.COMMANDS)


@pytest.fixture(scope="module")
def wanted():
    """What the schemas and the page's commands say, by file."""
    return {
        locales.NODE_DEFS: locales.node_texts(),
        locales.MAIN: locales.main_texts(),
        locales.COMMANDS: locales.command_texts(),
    }


def test_en_is_what_the_schemas_say():
    assert locales.load("en", locales.NODE_DEFS) == locales.node_defs(), "run python -m tools.locales"
    assert locales.load("en", locales.MAIN) == locales.main_texts(), "run python -m tools.locales"
    assert locales.load("en", locales.COMMANDS) == locales.command_texts() != {}, "run python -m tools.locales"


@pytest.mark.parametrize("name", FILES)
def test_zh_says_the_same_things(name, wanted):
    assert locales.strings(locales.load("zh", name)).keys() == locales.strings(wanted[name]).keys()


@pytest.mark.parametrize("name", FILES)
def test_no_text_of_zh_is_empty(name):
    empty = [keys for keys, text in locales.strings(locales.load("zh", name)).items() if not text.strip()]
    assert not empty


def test_titles_and_tooltips_of_zh_are_chinese():
    texts = locales.strings(locales.load("zh", locales.NODE_DEFS))
    kinds = ("display_name", "description", "tooltip")
    assert not [keys for keys, text in texts.items() if keys[-1] in kinds and not CHINESE.search(text)]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", FILES)
def test_every_front_end_shows_the_text_as_it_is(language, name):
    texts = locales.strings(locales.load(language, name))
    assert not [keys for keys, text in texts.items() if locales.MESSAGE_SYNTAX.search(text)]


def test_what_a_prompt_or_a_path_needs_stays_as_it_is(wanted):
    tokens = re.compile(r"embedding:NAME|\bmodels/[\w/]+|\bCC0-1\.0|\bsafetensors|\battn2\b|\bLoRA\b", re.ASCII)
    english = locales.strings(wanted[locales.NODE_DEFS])
    chinese = locales.strings(locales.load("zh", locales.NODE_DEFS))
    assert not [k for k in english if set(tokens.findall(english[k])) - set(tokens.findall(chinese[k]))]


def test_display_names_of_zh_differ():
    names = [node["display_name"] for node in locales.load("zh", locales.NODE_DEFS).values()]
    assert len(set(names)) == len(names)

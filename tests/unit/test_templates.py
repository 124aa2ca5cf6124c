import json
import re
from pathlib import Path

import pytest
import torch

from fmn_core.concepts import templates
from fmn_core.concepts.concept import concept_from_dict, concept_from_text
from fmn_core.concepts.limits import LONGEST_LINE, LONGEST_PHRASE, MOST_LINES, MOST_PHRASES
from fmn_core.concepts.presets import load_preset
from fmn_core.concepts.templates import (
    KINDS,
    check_templates,
    default_templates,
    fill_template,
    parse_lines,
    templates_for,
)
from fmn_core.errors import ForgetError
from fmn_core.patch.schema import read_concepts
from fmn_core.scores.clip_score import zero_shot
from mini_sd.concepts import CONCEPTS, STYLE_NAMES


@pytest.mark.parametrize("kind", KINDS)
def test_every_template_has_one_place_and_comes_once(kind):
    templates = default_templates(kind)
    assert all(t.count("{}") == 1 for t in templates) and len(set(templates)) == len(templates) > 20


# Nouns that any list of everyday captions would hold; the miniature's world has them too.
EVERYDAY_NOUNS = {
    "cat",
    "dog",
    "horse",
    "elephant",
    "car",
    "house",
    "umbrella",
    "guitar",
    "robot",
    "mouse",
    "computer mouse",
}


def test_nothing_that_ships_knows_the_words_of_the_test_world():
    """What is measured on the miniature would say little of other models if templates, captions or presets knew its words."""
    world = {*STYLE_NAMES, *(w for c in CONCEPTS for w in (c.name, *c.synonyms, c.shared_word) if w)}
    folder = Path(templates.__file__).parent / "data" / "presets"
    presets = [c for file in sorted(folder.glob("*.json")) for c in load_preset(file.stem, [folder]).concepts]
    prompts = [t for kind in KINDS for t in default_templates(kind)] + [
        t for c in presets for t in (*c.phrases, *c.templates)
    ]
    captions = templates.everyday_captions()

    def known(text):
        return {w for w in world if f" {w} " in f" {' '.join(re.findall(r'[a-z]+', text.lower()))} "}

    assert not {w for text in prompts for w in known(text)}
    assert {w for text in captions for w in known(text)} <= EVERYDAY_NOUNS
    assert known("a pair of zebras, noto style") == {"noto"} and known("an owl in noto style") == {"owl", "noto"}


def test_a_style_is_asked_for_in_pictures_of_something_and_under_no_other_style():
    templates = default_templates("style")
    assert sum(" of a " in t or t.startswith("a ") for t in templates) > 0.8 * len(templates)


def test_templates_that_hold_the_phrase_are_left_out():
    found = templates_for("object", ["Table"])
    assert found and not any("table" in t for t in found) and set(found) < set(default_templates("object"))
    assert templates_for("object", ["tab"]) == default_templates("object")
    assert templates_for("style", ["fruit"]) and not any("fruit" in t for t in templates_for("style", ["fruit"]))
    assert templates_for("object", ["zebra"]) == default_templates("object")


def test_a_patch_remembers_them_without_a_list():
    concept = concept_from_text("table\nnoto style")
    assert "templates" not in concept.as_dict()
    assert concept_from_dict(concept.as_dict()).templates == concept.templates


BAD_TEMPLATES = {
    "a width": "{:3000000000} {}",
    "a field": "{x} {}",
    "an attribute": "{0.__class__} {}",
    "no place": "a photo",
    "two places": "{} and {}",
    "a bracket": "{} {",
    "doubled brackets": "{{}}",
    "too long": "x" * (LONGEST_LINE + 1) + " {}",
}


@pytest.mark.parametrize("case", BAD_TEMPLATES)
def test_templates_that_are_refused_wherever_they_come_from(case, tmp_path):
    template = BAD_TEMPLATES[case]
    with pytest.raises(ForgetError, match="template|characters"):
        check_templates([template])
    with pytest.raises(ForgetError, match="template|characters"):
        concept_from_text("zebra", templates=template)
    (tmp_path / "a.json").write_text(json.dumps({"concepts": [{"phrases": ["zebra"], "templates": [template]}]}))
    with pytest.raises(ForgetError, match="template|characters"):
        load_preset("a", [tmp_path])
    assert read_concepts(json.dumps([{"phrases": ["zebra"], "templates": [template]}])) == []
    with pytest.raises(ForgetError, match="template"):
        zero_shot(None, torch.zeros(1, 8, 8, 3), ["a", "b"], template)


def test_a_phrase_is_put_in_as_it_is():
    assert fill_template("a photo of {}, noto", "zebra") == "a photo of zebra, noto"
    assert fill_template("a {}", "{} {x} {0}") == "a {} {x} {0}"
    for kind in KINDS:
        assert all(fill_template(t, "a zebra") == t.format("a zebra") for t in default_templates(kind))


def test_no_template_is_a_format_string():
    """str.format runs what stands between the brackets: three gigabytes of padding, or attributes of what is put in."""
    root = Path(templates.__file__).parents[2]
    files = [*root.glob("fmn_core/**/*.py"), *root.glob("nodes/**/*.py")]
    found = [
        f"{f.name}: {line}" for f in files for line in f.read_text().splitlines() if re.search(r"\.format\(", line)
    ]
    assert len(files) > 50 and found == []


def test_too_many_lines_are_refused_before_anything_is_encoded():
    with pytest.raises(ForgetError, match=f"at most {MOST_PHRASES} phrases, got {MOST_PHRASES + 1}"):
        concept_from_text("\n".join(f"word {n}" for n in range(MOST_PHRASES + 1)))
    with pytest.raises(ForgetError, match=f"at most {LONGEST_PHRASE:,} characters"):
        concept_from_text("x" * 1_000_000)
    with pytest.raises(ForgetError, match=f"at most {MOST_LINES:,} lines, got {MOST_LINES + 1:,}"):
        parse_lines("\n".join(map(str, range(MOST_LINES + 1))))
    with pytest.raises(ForgetError, match=f"at most {LONGEST_LINE:,} characters"):
        parse_lines("x" * 1_000_000)
    with pytest.raises(ForgetError, match="lone surrogate"):
        parse_lines("zebra \ud800")
    assert len(parse_lines("\n".join(map(str, range(MOST_LINES))))) == MOST_LINES

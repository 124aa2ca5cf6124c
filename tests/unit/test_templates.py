import pytest

from fmn_core.concept import concept_from_dict, concept_from_text
from fmn_core.templates import KINDS, default_templates, templates_for


@pytest.mark.parametrize("kind", KINDS)
def test_every_template_has_one_place_and_comes_once(kind):
    templates = default_templates(kind)
    assert all(t.count("{}") == 1 for t in templates) and len(set(templates)) == len(templates) > 20


def test_a_style_is_asked_for_in_pictures_of_something_and_under_no_other_style():
    templates = default_templates("style")
    assert sum(" of a " in t or t.startswith("a ") for t in templates) > 0.8 * len(templates)
    assert not any(style in t for t in templates for style in ("twemoji", "noto", "fluent", "emojione"))


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

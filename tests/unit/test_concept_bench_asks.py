"""ConceptBench on the miniature: which pictures are asked for, in prompts that no solve has used."""

import pytest

from bench.concept_bench.asks import asks_of, check_held_out, styles_in_templates
from bench.concept_bench.concepts import GROUPS, load_list
from bench.concept_bench.run import default_concepts
from bench.concept_bench.tasks import Task
from fmn_core.concepts.templates import default_templates
from mini_sd.concepts import BY_NAME, STYLE_NAMES, drawn_styles


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("concepts", default_concepts(), ids="+".join)
def test_nothing_asked_is_in_a_solve_or_seen_before(concepts, seed):
    asks = asks_of(Task("miniature", "closed form", concepts, seed))
    group = load_list("miniature")[concepts[0]].group
    words = [concepts[0]] if group == "style" else [w for n in concepts for w in (n, *BY_NAME[n].synonyms)]
    solved = {t.format(w) for t in default_templates(group) for w in words}
    for name in ("target", "synonym", "contexts"):
        assert not solved & set(asks[name].prompts)
    for ask in asks.values():
        assert min(ask.seeds) >= 70_000 + 1000 * seed and max(ask.seeds) < 71_000 + 1000 * seed
        assert len(set(zip(ask.prompts, ask.seeds))) == len(ask.prompts)
        styles = list(zip(ask.concepts, ask.styles))
        assert all(style in drawn_styles(concept) for concept, style in styles if style or ask is not asks["contexts"])
    assert not set(concepts) & {*asks["others"].styles, *([] if group == "style" else asks["others"].concepts)}


def test_a_thing_is_asked_for_in_every_style_and_half_of_the_others_in_turn():
    asks = [asks_of(Task("miniature", "x", ("cat",), seed)) for seed in (0, 1)]
    assert [len(asks[0][n].prompts) for n in ("target", "synonym")] == [8, 4]
    assert all("kitten" in prompt for prompt in asks[0]["synonym"].prompts)
    assert {n for ask in asks for n in ask["others"].concepts} == set(BY_NAME) - {"cat"}
    assert all({"tiger", "dog"} <= set(ask["others"].concepts) for ask in asks)


def test_contexts_are_in_no_form_of_the_table_or_of_a_template_and_half_of_a_things_name_a_style():
    ask = asks_of(Task("miniature", "x", ("cat",), 0))["contexts"]
    assert len(ask.prompts) == len(set(ask.prompts)) == 8 and set(ask.concepts) == {"cat"}
    assert sorted(filter(None, ask.styles)) == sorted(STYLE_NAMES) and ask.styles.count("") == 4
    assert all((style or "style") in prompt for prompt, style in zip(ask.prompts, ask.styles) if style)
    assert not any(
        style in prompt for prompt, mark in zip(ask.prompts, ask.styles) if not mark for style in STYLE_NAMES
    )
    styled = asks_of(Task("miniature", "x", ("noto",), 0))["contexts"]
    assert len(styled.prompts) == 8 and set(styled.styles) == {"noto"} and all("noto" in p for p in styled.prompts)
    several = asks_of(Task("miniature", "x", ("cat", "car"), 0))["contexts"]
    assert several.concepts == ["cat", "cat", "car", "car"] and several.styles.count("") == 2
    for concept in load_list("miniature").values():
        taken = {
            *concept.prompts,
            *concept.paraphrases,
            *(t.replace("a {}", "{x}") for t in default_templates(concept.group)),
        }
        assert concept.contexts and not taken & set(concept.contexts)


@pytest.mark.parametrize("group", GROUPS)
def test_a_prompt_of_a_template_is_refused_whatever_its_article(group):
    form = next(t for t in default_templates(group) if "a {}" in t or group == "style")
    check_held_out(["look at an owl"], [group])
    with pytest.raises(ValueError, match="no default template"):
        check_held_out(["look at an owl", form.replace("a {}", "an owl").replace("{}", "noto")], [group])


def test_styles_that_templates_name_are_counted(monkeypatch):
    monkeypatch.setattr(
        "bench.concept_bench.asks.default_templates", lambda kind: ("a {}", "a {}, Noto", "{}, in fluent")
    )
    assert styles_in_templates("object") == 2
    monkeypatch.setattr("bench.concept_bench.asks.default_templates", lambda kind: ("a {}", "a notorious {}"))
    assert styles_in_templates("object") == 0


@pytest.mark.parametrize("concepts", [(), ("nobody",), ("cat", "noto"), ("noto", "twemoji")])
def test_unknown_or_mixed_concepts_are_refused(concepts):
    with pytest.raises(ValueError, match="Expected"):
        asks_of(Task("miniature", "x", concepts, 0))

"""ConceptBench on checkpoints: what is asked for, the labels, names told to methods, keys, the report of several models."""

import hashlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.concept_bench import concepts as lists
from bench.concept_bench.cell import JudgedPictures, accuracies_of
from bench.concept_bench.checkpoint_asks import PHOTOGRAPH, listed_asks, style_labels, thing_labels
from bench.concept_bench.checkpoint_names import ListedNames, known_concepts, names_to_keep, without_article
from bench.concept_bench.checkpoint_world import CheckpointWorld
from bench.concept_bench.report import page, read_results, write_page
from bench.concept_bench.run import checkpoint_of, default_concepts, parse_concepts, parse_methods
from bench.concept_bench.store import Store
from bench.concept_bench.tasks import Checkpoint, Task, tasks_of
from bench.names import MINIATURE_NAMES, names_of
from bench.peers.peer_prompts import forgotten, neighbour, preserved
from bench.peers.settings import PUBLISHED, miniature_settings, settings_of
from bench.world import Ask
from mini_sd.concepts import BY_NAME, CONCEPT_NAMES, STYLE_NAMES

GIVEN = json.loads((Path(lists.__file__).parent / "stable_diffusion.json").read_text())["groups"]
GROUPS = {name: group for group, shared in GIVEN.items() for name in shared["concepts"]}
PLACEHOLDERS = {n for g in GIVEN.values() for n, c in g["concepts"].items() if c.get("placeholder")}
CHECKPOINT = Checkpoint("/models/v1-5.safetensors", "0123456789abcdef", "/clips/vit-l", pictures=10)
WORLD = SimpleNamespace(names=ListedNames())
ALONE = [names for names in default_concepts("stable_diffusion") if len(names) == 1]


def task(*names: str, seed: int = 0, checkpoint: Checkpoint = CHECKPOINT) -> Task:
    [made] = tasks_of(["UCE"], [names], seed + 1, checkpoint=checkpoint)[-1:]
    return made


def given(name: str) -> dict:
    shared = GIVEN[GROUPS[name]]
    return {**shared, **shared["concepts"][name]}


def test_every_concept_but_placeholders_and_all_objects_at_once():
    found = default_concepts("stable_diffusion")
    assert {n for [n] in ALONE} == set(GROUPS) - PLACEHOLDERS and len(PLACEHOLDERS) == 4
    assert found[-1] == tuple(n for n in GROUPS if GROUPS[n] == "object" and n not in PLACEHOLDERS)
    assert parse_concepts("a zebra, a dog+a cat", "stable_diffusion") == [("a zebra",), ("a dog", "a cat")]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("names", default_concepts("stable_diffusion"), ids="+".join)
def test_what_is_asked_is_named_and_may_be_seen(names, seed):
    asks = listed_asks(task(*names, seed=seed))
    style, words = GROUPS[names[0]] == "style", {n: given(n) for n in names}
    things, styles = thing_labels(task(*names)), list(style_labels(task(*names)).values())
    for which, ask in asks.items():
        asked = ask.styles if style else ask.concepts
        assert len(ask.prompts) == len(ask.seeds) == len(ask.concepts) == len(ask.styles) > 0
        assert len(set(zip(ask.prompts, ask.seeds))) == len(ask.prompts)
        assert all(70_000 + 1000 * seed <= s < 71_000 + 1000 * seed for s in ask.seeds)
        assert set(ask.concepts) <= set(things) and (not style or set(ask.styles) <= set(styles))
        assert style or set(ask.styles) == {""}
        for prompt, name, subject in zip(ask.prompts, asked, ask.concepts):
            said = words[name]["synonyms"] if which == "synonym" else [name]
            assert any(word in prompt for word in said) and "{" not in prompt
            assert subject in prompt or not style
            assert (name in names) == (which != "others")
        assert not PLACEHOLDERS & {*ask.concepts, *ask.styles, *things, *styles}
    assert len(set(things)) == len(things) and (style or set(names) < set(things))
    if style:
        assert things == GIVEN["style"]["subjects"] and PHOTOGRAPH in styles and len(set(styles)) == len(styles)


@pytest.mark.parametrize("names", ALONE, ids="+".join)
def test_neighbours_come_first_and_all_of_the_group_are_asked_for(names):
    [name], found = names, names_to_keep(names)
    near = given(name)["neighbours"]
    assert found[: len(near)] == near and name not in found
    group = {n for n, g in GROUPS.items() if g == GROUPS[name]} - PLACEHOLDERS - {name}
    assert set(found) == group | set(near)
    asks = listed_asks(task(name))
    asked = asks["others"].styles if GROUPS[name] == "style" else asks["others"].concepts
    assert {n: asked.count(n) for n in found} == dict.fromkeys(found, 2)
    assert [len(asks[n].prompts) for n in ("target", "synonym")] == [10, 5]


def test_a_seed_draws_other_prompts_and_noise():
    first, second = (listed_asks(task("Claude Monet", seed=s))["target"] for s in (0, 1))
    assert not set(first.seeds) & set(second.seeds) and first.prompts != second.prompts
    assert len(set(first.concepts)) == 8 and {p.split(" of ")[0] for p in first.prompts} > {"a painting"}


@pytest.mark.parametrize(
    "names", [(), ("zebra",), ("your own object",), ("a dog", "Claude Monet"), ("Rembrandt", "Caravaggio")]
)
def test_unknown_or_mixed_concepts_and_placeholders_are_refused(names):
    with pytest.raises(ValueError, match="Expected"):
        listed_asks(Task("v1-5", "UCE", names, 0, CHECKPOINT.ask, CHECKPOINT))


def test_methods_are_told_bare_phrases():
    assert [without_article(n) for n in ("a zebra", "an apple", "the Mad Hatter", "Athena", "Alice in Wonderland")] == [
        "zebra", "apple", "Mad Hatter", "Athena", "Alice in Wonderland",
    ]  # fmt: skip
    [found] = forgotten(WORLD, ["a zebra"])
    assert found[:2] == ("zebra", "object") and {"horse", "donkey", "French horn"} <= set(found.anchors)
    kept = preserved(WORLD, ["a zebra"])
    assert "zebra" not in kept and {"horse", "donkey", "Claude Monet", "Mad Hatter"} <= set(kept)
    assert not any(k.startswith(("a ", "an ", "the ")) for k in kept) and not PLACEHOLDERS & set(kept)
    assert set(WORLD.names.others_of_kind(["a zebra"])) == {without_article(n) for n in names_to_keep(["a zebra"])}
    assert WORLD.names.substitute("a zebra") == "horse" and WORLD.names.kind("the Mad Hatter") == "identity"
    assert all(set(WORLD.names.anchors(n)).isdisjoint({without_article(n)}) for n in known_concepts())


def test_a_world_without_names_is_the_miniature():
    world = SimpleNamespace()
    assert names_of(world) is MINIATURE_NAMES and names_of(WORLD) is WORLD.names
    assert preserved(world, ["cat"]) == [n for n in (*CONCEPT_NAMES, *STYLE_NAMES) if n != "cat"]
    [cat, noto] = forgotten(world, ["cat", "noto"])
    assert cat[:2] == ("cat", "object") and noto[:2] == ("noto", "style")
    assert list(cat.anchors) == [n for n in CONCEPT_NAMES if BY_NAME[n].kind == "object"]
    assert all(settings_of(name, world) == miniature_settings(name) for name in PUBLISHED)
    assert all(settings_of(name, WORLD) == PUBLISHED[name] for name in PUBLISHED)


def test_the_anchor_is_the_nearest_of_the_worlds_own_names():
    axes = {"zebra": (1.0, 0.1), "horse": (1.0, 0.3), "pear": (0.1, 1.0)}
    adapter = SimpleNamespace(
        encode=lambda prompts: [
            SimpleNamespace(context=torch.tensor([axes.get(p.split()[-1], (-1.0, -1.0))])) for p in prompts
        ]
    )
    [zebra] = forgotten(WORLD, ["a zebra"])
    assert neighbour(adapter, zebra) == "horse" and neighbour(adapter, zebra, ["horse"]) != "horse"


def test_whatever_makes_two_measurements_differ_is_in_the_key():
    first = task("a zebra")
    assert first.key.startswith("v1-5/512 px, 20 steps, guidance 7.5, 10 pictures, judge vit-l, file 0123456789/UCE/")
    changed = {"sha256": "f" * 64, "judge": "/clips/vit-b", "size": 768, "steps": 30, "guidance": 5.0, "pictures": 4}
    keys = {task("a zebra", checkpoint=Checkpoint(**{**vars(CHECKPOINT), k: v})).key for k, v in changed.items()}
    assert len(keys | {first.key}) == 1 + len(changed)
    elsewhere = Checkpoint(**{**vars(CHECKPOINT), "file": "/other/v1-5.safetensors", "judge": "/other/vit-l"})
    assert task("a zebra", checkpoint=elsewhere).key == first.key
    assert "checkpoint" not in first.as_dict() and Task("miniature", "UCE", ("cat",), 0).checkpoint is None


def seen(ask: Ask, concepts: list[str], styles: list[str]) -> JudgedPictures:
    nothing = torch.empty(0)
    return JudgedPictures(ask, nothing, nothing, (ask.concepts, ask.styles), (concepts, styles))


def asked(concepts: list[str], styles: list[str]) -> Ask:
    return Ask(["p"] * len(concepts), list(range(len(concepts))), concepts, styles)


def test_accuracies_of_a_thing_without_styles_by_hand():
    none = [""] * 4
    pictures = {
        "target": seen(asked(["a zebra"] * 4, none), ["a horse", "a dog", "a zebra", "a cow"], none),
        "synonym": seen(asked(["a zebra"] * 2, none[:2]), ["a horse", "a zebra"], none[:2]),
        "others": seen(asked(["a horse", "a donkey", "a dog", "a cat"], none), ["a horse", "a cow", "a dog", "a cat"], none),
    }  # fmt: skip
    found = accuracies_of(task("a zebra"), pictures)
    assert (found["UA"], found["IRA"], found["generality"], found["neighbours"]) == (0.75, 0.75, 0.5, 0.5)
    assert found["H_o"] == pytest.approx(3 / (1 / 0.75 + 1 / 0.75 + 1 / 0.5), abs=1e-6)
    assert not {"CRA", "context_kept", "CRA_before"} & set(found)


def test_accuracies_of_a_style_by_hand():
    things = ["a house", "a tree", "a house", "a tree"]
    pictures = {
        "target": seen(asked(things, ["Rembrandt"] * 4), things, [PHOTOGRAPH] * 3 + ["Rembrandt"]),
        "synonym": seen(asked(things, ["Rembrandt"] * 4), things, [PHOTOGRAPH] * 2 + ["Rembrandt"] * 2),
        "others": seen(
            asked(things, ["Frans Hals", "Frans Hals", "Caravaggio", "Claude Monet"]),
            ["a house", "a tree", "a house", "a house"],
            ["Frans Hals", "Rembrandt", "Caravaggio", "Claude Monet"],
        ),
    }
    found = accuracies_of(task("Rembrandt"), pictures)
    assert (found["UA"], found["IRA"], found["CRA"], found["generality"]) == (0.75, 0.75, 0.75, 0.5)
    assert (found["neighbours"], found["context_kept"]) == (0.5, 1)


class Known:
    """A judge for which a picture is the number in its corner and a text the number that is said of it."""

    name = "known"

    def __init__(self, numbers: dict[str, int]) -> None:
        self.numbers = numbers

    def images(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(images[:, 0, 0, 0].long(), 40).float()

    def texts(self, texts: list[str]) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([self.numbers[t] for t in texts]), 40).float()


def judged(name: str, numbers: dict[str, int], shown: list[int]) -> tuple[list[str], list[str]]:
    world = CheckpointWorld.__new__(CheckpointWorld)  # no checkpoint is needed to judge
    world.image_text = Known(numbers)
    return world.judged(task(name), torch.tensor(shown, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 2, 2, 3))


def test_the_judge_chooses_from_the_labels():
    things = {f"a picture of {n}": k for k, n in enumerate(["a zebra", *names_to_keep(["a zebra"])])}
    horse, church = things["a picture of a horse"], things["a picture of a church"]
    assert judged("a zebra", things, [0, horse, church]) == (["a zebra", "a horse", "a church"], [""] * 3)
    styles = {f"a painting by {n}": 20 + k for k, n in enumerate(["Rembrandt", *names_to_keep(["Rembrandt"])])}
    subjects = {f"a picture of {s}": k for k, s in enumerate(GIVEN["style"]["subjects"])}
    found = judged("Rembrandt", {**subjects, **styles, PHOTOGRAPH: 39}, [20, 39, 3])
    assert found[0][2] == "a woman at a window" and found[1][:2] == ["Rembrandt", PHOTOGRAPH]


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "v1.safetensors").write_bytes(b"weights")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text("{}")
    sizes = {"size": 512, "steps": 20, "guidance": 7.5, "pictures": 10}
    return SimpleNamespace(model=tmp_path / "v1.safetensors", judge=tmp_path / "clip", **sizes)


def test_arguments_become_a_checkpoint_or_a_sentence(arguments, tmp_path):
    found = checkpoint_of(arguments)
    assert found is not None and (found.label, found.size, found.pictures) == ("v1", 512, 10)
    assert found.sha256 == hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "miniature.ckpt").write_bytes(b"")
    changes = {"model": [tmp_path / "none", tmp_path / "miniature.ckpt"], "judge": [None, tmp_path], "size": [0, 100]}
    for name, values in {**changes, "steps": [0], "pictures": [0]}.items():
        for value in values:
            with pytest.raises(ValueError, match="Expected"):
                checkpoint_of(SimpleNamespace(**{**vars(arguments), name: value}))
    assert checkpoint_of(SimpleNamespace(model=None)) is None


# --- the report ---

ABOUT = {"command": "python -m x", "pack_version": "1", "git_commit": "abc", "machine": "m", "torch_version": "2"}
SETTING = {
    "checkpoint": "v1-5.safetensors",
    "sha256": "0123",
    "judge": "vit-l",
    "size": 512,
    "steps": 20,
    "guidance": 7.5,
}


def row(of: Task, **figures) -> dict:
    known = {"erased": 0.25, "IRA": 0.8, "generality": 0.5, "UA": 0.75, "H_o": 0.66, "drift": 0.001, "seconds": 1.5}
    about = {"key": of.key, **of.as_dict(), "concepts": list(of.concepts), **ABOUT, "seconds": 1.5}
    return {**about, "figures": {**known, "artefact_bytes": 1000, **figures}}


@pytest.fixture
def database(tmp_path):
    """Two checkpoints and the miniature in one file."""
    path = tmp_path / "a.sqlite"
    other = Checkpoint("/models/xl base.safetensors", "f" * 64, "/clips/vit-l", 1024)
    with Store(path) as store:
        store.put(row(Task("miniature", "UCE", ("cat",), 0)))
        store.put(row(task("a zebra"), setting={**SETTING, "pictures": 10}, UA=0.5))
        store.put(row(task("Claude Monet"), setting={**SETTING, "pictures": 10}, CRA=1.0))
        store.put(row(task("a dog", checkpoint=other), setting={**SETTING, "judge": "vit-l"}))
        store.fail(task("a cat").key, "RuntimeError: out of luck", "x")
        store.fail(task("an apple", checkpoint=other).key, "RuntimeError: elsewhere", "x")
    return path


def test_a_page_is_of_one_model(database, tmp_path):
    found = read_results(database, None, "v1-5")
    assert {r["model"] for r in found["results"]} == {"v1-5"} and len(found["results"]) == 2
    assert {(r["kind"], r["cells"]) for r in found["rows"]} == {("object", 1), ("style", 1)}
    [thing] = [r for r in found["rows"] if r["kind"] == "object"]
    assert math.isclose(thing["UA"], 0.5) and thing["CRA"] is None
    write_page(found, tmp_path / "results")
    assert {f.name for f in (tmp_path / "results").iterdir()} == {f"concept_bench-v1-5.{e}" for e in ("md", "png")}
    text = page(found)
    assert "# ConceptBench on v1-5\n" in text and "the CLIP vit-l" in text and "out of luck" in text
    assert "elsewhere" not in text and "a dog" not in text and "miniature" not in text
    assert "(concept_bench-v1-5.png)" in text
    assert "(concept_bench-xl_base.png)" in page(read_results(database, None, "xl base"))


def test_the_miniature_is_what_is_meant_without_a_word(database):
    assert [r["model"] for r in read_results(database)["results"]] == ["miniature"]
    assert "# ConceptBench on the miniature\n" in page(read_results(database))


def test_models_and_asks_are_never_mixed(database):
    with pytest.raises(ValueError, match="Expected --model.*miniature; v1-5; xl base"):
        read_results(database, None, None)
    more = Checkpoint(**{**vars(CHECKPOINT), "judge": "/clips/vit-b"})
    with Store(database) as store:
        store.put(row(task("a zebra", checkpoint=more), setting={**SETTING, "judge": "vit-b"}))
    with pytest.raises(ValueError, match="Expected --ask.*judge vit-b.*judge vit-l"):
        read_results(database, None, "v1-5")
    assert [r["ask"] for r in read_results(database, more.ask, "v1-5")["results"]] == [more.ask]


def test_every_method_is_offered():
    assert {"closed form", "UCE", "SPM", "MACE"} <= set(parse_methods(None))

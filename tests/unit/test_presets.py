import json

import pytest

from fmn_core.concepts.presets import SHIPPED, find_preset, list_presets, load_preset
from fmn_core.concepts.templates import default_templates
from fmn_core.errors import ForgetError

NAMES = ["drugs", "hate_symbols", "nudity", "self_harm", "violence"]


def write(folder, name, content):
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return [folder, SHIPPED]


def one(**fields):
    return {"concepts": [{"phrases": ["gun", "pistol"]} | fields]}


def test_shipped_presets_name_every_unsafe_phrase_once():
    assert list_presets([SHIPPED]) == NAMES
    presets = [load_preset(name, [SHIPPED]) for name in NAMES]
    concepts = [c for p in presets for c in p.concepts]
    assert all(p.description and p.concepts for p in presets)
    assert all(c.kind == "unsafe" and c.templates == list(default_templates("unsafe")) for c in concepts)
    phrases = [p for c in concepts for p in c.phrases]
    assert len(phrases) == len(set(phrases)) and all(p == p.lower().strip() for p in phrases)
    assert len(phrases) == sum(
        len(e["phrases"]) for f in SHIPPED.glob("*.json") for e in json.loads(f.read_text())["concepts"]
    )


def test_fields_of_a_users_preset(tmp_path):
    entry = {"phrases": ["gun", "pistol"], "kind": "object", "templates": ["a {} on a table"], "end_token": "all"}
    folders = write(tmp_path / "own", "guns", {"description": "Guns.", "concepts": [entry, {"phrases": ["Zoë"]}]})
    preset = load_preset("guns", folders)
    gun, zoe = preset.concepts
    assert (gun.phrases, gun.kind, gun.templates, gun.end_token) == (
        ["gun", "pistol"],
        "object",
        ["a {} on a table"],
        "all",
    )
    assert (zoe.phrases, zoe.kind, zoe.end_token) == (["Zoë"], "unsafe", "first")
    assert preset.listing() == "guns: Guns.\n- object: gun, pistol\n- unsafe: Zoë"
    assert list_presets(folders) == sorted([*NAMES, "guns"])


def test_a_users_file_replaces_the_shipped_one(tmp_path):
    folders = write(tmp_path / "own", "nudity", one())
    assert list_presets(folders) == NAMES
    assert load_preset("nudity", folders).concepts[0].phrases == ["gun", "pistol"]
    assert load_preset("nudity", [SHIPPED]).concepts[0].phrases[0] == "nudity"


def test_a_folder_need_not_exist_and_other_files_are_not_listed(tmp_path):
    assert list_presets([tmp_path / "nowhere"]) == []
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden.json").write_text("{}")
    (tmp_path / "folder.json").mkdir()
    assert list_presets([tmp_path]) == []


def test_a_byte_order_mark_is_no_error(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(one()), encoding="utf-8-sig")
    assert load_preset("a", [tmp_path]).concepts[0].phrases == ["gun", "pistol"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"JSON in the preset bad\.json, got: Expecting property name"),
        ("", r"JSON in the preset bad\.json"),
        ("[" * 100_000, r"JSON in the preset bad\.json"),
        ([], r"bad\.json: expected an object with description, concepts, got \[\]"),
        ({}, "at least one concept as concepts, got nothing"),
        ({"concepts": []}, r"at least one concept as concepts, got \[\]"),
        ({"concepts": {"phrases": ["gun"]}}, "at least one concept"),
        ({"concepts": [{"phrases": ["gun"]}], "extra": 1}, "only the fields description, concepts, got 'extra'"),
        ({"concepts": [{"phrases": ["gun"]}], "description": 1}, "a text as description, got 1"),
        ({"concepts": ["gun"]}, "bad.json, concept 1: expected an object with phrases.*got 'gun'"),
        ({"concepts": [{"phrases": ["gun"]}, {}]}, "bad.json, concept 2: Expected a phrase"),
        (one(phrases=[]), "concept 1: Expected a phrase"),
        (one(phrases="gun"), "a list of texts, each of one line, as phrases, got 'gun'"),
        (one(phrases=["gun", 3]), "a list of texts, each of one line, as phrases"),
        (one(phrases=["gun", " "]), "a list of texts"),
        (one(phrases=["gun\npistol"]), "a list of texts"),
        (one(synonyms=["rifle"]), "only the fields phrases, kind, templates, end_token, got 'synonyms'"),
        (one(kind="weapon", templates=["a {}"]), "unsafe as kind, got 'weapon'"),
        (one(kind=["unsafe"]), "as kind, got"),
        (one(templates=["a gun"]), "concept 1: Expected one {} for the phrase"),
        (one(end_token="last"), "concept 1: Expected end_token"),
        (one(end_token=["first"]), "a text as end_token"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, content, message):
    folders = write(tmp_path, "bad", content)
    with pytest.raises(ForgetError, match=message) as caught:
        load_preset("bad", folders)
    assert "bad.json" in str(caught.value) and len(str(caught.value)) < 400


def test_binary_and_huge_files_are_refused(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ForgetError, match=r"binary\.json, got: not UTF-8 text"):
        load_preset("binary", [tmp_path])
    (tmp_path / "huge.json").write_text(" " * 1_000_001)
    with pytest.raises(ForgetError, match=r"huge\.json is larger"):
        load_preset("huge", [tmp_path])


@pytest.mark.parametrize("name", ["", "../secret", "a/b", "a\\b", "..", ".hidden", "C:x", "/etc/passwd", "a\0"])
def test_names_with_path_parts_are_refused(tmp_path, name):
    (tmp_path / "secret.json").write_text(json.dumps(one()))
    with pytest.raises(ForgetError, match="Expected the plain name of a preset"):
        find_preset(name, [tmp_path / "own"])


def test_unknown_presets_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ForgetError, match=r"\(drugs, hate_symbols, .*\), got 'gambling'"):
        load_preset("gambling", [tmp_path, SHIPPED])

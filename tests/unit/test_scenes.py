"""The world of the miniature FLUX: what is held out stays out, pictures show what a scene says, captions say what it shows."""

import random

import numpy as np
import pytest

from mini_flux.captions import ON_GROUNDS, PAIRS, caption
from mini_flux.scenes import ABOVE, LEFT_OF, SIZE, Artwork, Placed, Scene, compose, random_scene
from mini_flux.things import BY_NAME, GROUNDS, HELD_OUT_SHARE, STYLE_NAMES, THINGS, held_out


@pytest.fixture(scope="module")
def artwork():
    """A square of a colour of its own for each thing."""
    drawings = {}
    for number, thing in enumerate(THINGS):
        drawing = np.zeros((SIZE, SIZE, 4), np.uint8)
        drawing[...] = (number, 255 - number, 7, 255)
        drawings |= {(style, thing.name): drawing for style in STYLE_NAMES}
    return Artwork(drawings)


def test_there_are_48_things_12_of_them_identities():
    assert len(BY_NAME) == len(THINGS) == 48
    assert sum(thing.kind == "identity" for thing in THINGS) == 12
    words = [word for thing in THINGS for word in (thing.name, *thing.synonyms)]
    assert len(set(words)) == len(words)


def test_one_combination_in_ten_is_held_out_whatever_its_order():
    names = [thing.name for thing in THINGS]
    pairs = [held_out(a, b) for n, a in enumerate(names) for b in names[n + 1 :]]
    grounds = [held_out(a, ground) for a in names for ground in GROUNDS]
    for found in (pairs, grounds):
        assert sum(found) / len(found) == pytest.approx(HELD_OUT_SHARE, abs=0.03)
    assert held_out("zebra", "frog") == held_out("frog", "zebra")


def test_scenes_are_of_the_side_that_was_asked_for(artwork):
    rng = np.random.default_rng(0)
    seen, unseen = ([random_scene(artwork, rng, u) for _ in range(60)] for u in (False, True))
    assert not any(s.is_held_out() for s in seen) and all(s.is_held_out() for s in unseen)
    assert {len(s.things) for s in seen} == {1, 2} and {s.relation for s in seen} == {"", LEFT_OF, ABOVE}
    assert {len(s.grounds) for s in seen} == {1, 2}


@pytest.mark.parametrize(("relation", "places"), [(LEFT_OF, [(64, 32), (64, 96)]), (ABOVE, [(32, 64), (96, 64)])])
def test_things_stand_where_the_scene_says(artwork, relation, places):
    zebra, house = (list(BY_NAME).index(n) for n in ("zebra", "house"))
    scene = Scene((Placed("zebra", "big"), Placed("house", "small")), relation, ("blue",), "noto")
    picture = compose(scene, artwork, np.random.default_rng(1))
    for number, (row, column) in zip((zebra, house), places, strict=True):
        assert picture[row, column].tolist() == pytest.approx([number, 255 - number, 7], abs=1)
    assert picture[0, 0].tolist() == list(GROUNDS["blue"])
    size = (np.abs(picture.astype(int) - [zebra, 255 - zebra, 7]).max(-1) < 2).sum()
    smaller = (np.abs(picture.astype(int) - [house, 255 - house, 7]).max(-1) < 2).sum()
    assert size == 62 * 62 and smaller == 42 * 42


def test_without_a_random_generator_things_stand_exactly(artwork):
    zebra = list(BY_NAME).index("zebra")
    scene = Scene((Placed("zebra", "big"), Placed("house", "small")), LEFT_OF, ("blue",), "noto")
    picture = compose(scene, artwork)
    rows, columns = np.nonzero(np.abs(picture.astype(int) - [zebra, 255 - zebra, 7]).max(-1) < 2)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (33, 94, 1, 62)
    assert np.array_equal(picture, compose(scene, artwork))


def test_a_gradient_goes_from_one_ground_to_the_other(artwork):
    scene = Scene((Placed("zebra", "small"),), "", ("red", "blue"), "noto")
    picture = compose(scene, artwork, np.random.default_rng(0))
    assert picture[0, 0].tolist() == list(GROUNDS["red"]) and picture[-1, 0].tolist() == list(GROUNDS["blue"])


def test_captions_name_what_is_to_be_seen():
    scene = Scene((Placed("zebra", "big"), Placed("key", "small")), LEFT_OF, ("orange",), "noto")
    draw, texts = random.Random(0), set()
    for _ in range(400):
        text = caption(scene, draw)
        texts.add(text)
        names = [any(w in text for w in (BY_NAME[p.thing].name, *BY_NAME[p.thing].synonyms)) for p in scene.things]
        assert all(names) or not any(names)
        assert not any(style in text for style in STYLE_NAMES if style != "noto")
        assert "a orange" not in text and "small zebra" not in text and "big key" not in text
    assert "" in texts and any(t.endswith("nothing else to see") for t in texts) and len(texts) > 200
    unseen = {caption(scene, draw, unseen=True) for _ in range(50)}
    assert not unseen & texts and all("noto" in t and "orange" in t and "zebra" in t and "key" in t for t in unseen)


def test_every_kind_of_form_has_some_on_both_sides():
    from mini_flux.captions import _forms

    for forms in (*PAIRS.values(), ON_GROUNDS):
        seen, unseen = _forms(forms, False), _forms(forms, True)
        assert seen and unseen and sorted([*seen, *unseen]) == sorted(forms)


def test_the_judge_is_told_what_stands_where():
    from mini_flux.judge import NOTHING, labels

    scene = Scene((Placed("zebra", "big"), Placed("key", "small")), ABOVE, ("orange", "blue"), "noto")
    things, grounds, style = labels(scene)
    names = list(BY_NAME)
    assert things == [NOTHING, NOTHING, NOTHING, names.index("zebra"), names.index("key")]
    assert [list(GROUNDS)[g] for g in grounds] == ["orange", "blue"] and STYLE_NAMES[style] == "noto"
    alone, _, _ = labels(Scene((Placed("key", "big"),), "", ("red",), "noto"))
    assert alone == [names.index("key"), NOTHING, NOTHING, NOTHING, NOTHING]

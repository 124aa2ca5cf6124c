from fmn_core.concepts.compounds import compounds_of


def test_names_that_hold_a_phrase_as_whole_words():
    assert {"dog collar", "hot dog"} <= set(compounds_of(["Dog"]))
    assert all("dog" in name.split() for name in compounds_of(["dog"]))
    assert compounds_of(["zebra"]) == ["zebra crossing", "zebra finch"]
    assert set(compounds_of(["zebra", "dog"])) == {*compounds_of(["zebra"]), *compounds_of(["dog"])}


def test_a_kind_of_the_thing_is_not_another_thing():
    assert "police car" not in compounds_of(["car"]) and "car seat" in compounds_of(["car"])
    assert "clothes horse" in compounds_of(["horse"])


def test_neither_the_phrase_itself_nor_a_part_of_a_word():
    assert compounds_of(["hot dog"]) == [] and compounds_of(["do"]) == [] and compounds_of(["", " "]) == []

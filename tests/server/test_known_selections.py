from collections.abc import Callable

from server.known_selections import Known, KnownSelections


def test_neurons_are_known_for_rounds_of_their_resync_only(make_plan: Callable, keeping: Callable) -> None:
    known = KnownSelections({"a": Known(1, keeping(0))})
    assert known.of("a", make_plan(round=3, resync_round=1)).kept["hidden"].tolist() == [0]
    assert known.of("a", make_plan(round=3, resync_round=3)) is None
    assert known.of("b", make_plan(round=3, resync_round=1)) is None


def test_a_late_update_brings_no_older_neurons_back(make_plan: Callable, keeping: Callable) -> None:
    known = KnownSelections({})
    old, new = make_plan(round=2, resync_round=1), make_plan(round=4, resync_round=4)
    known.note("a", old, keeping(0))
    known.note("a", old, keeping(1))
    assert known.of("a", old).kept["hidden"].tolist() == [1]
    known.note("a", new, keeping(2))
    known.note("a", old, keeping(3))
    assert known.of("a", old) is None
    assert known.of("a", new).kept["hidden"].tolist() == [2]

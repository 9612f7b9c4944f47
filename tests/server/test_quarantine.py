from pathlib import Path

import pytest

from server.quarantine import QuarantineRule, too_many
from server.records import Batch, FaultRecord, QuarantineRecord, RefusalRecord
from server.storage import Store
from wire_protocol.errors import InvalidValueError

RULE = QuarantineRule(faults=2, rounds=5)


def fault(number: int, device: str = "a") -> FaultRecord:
    return FaultRecord("run", number, device, f"why {number}")


@pytest.mark.parametrize(
    ("rounds", "number", "released", "held"),
    [
        ((), 5, {}, False),
        ((5,), 5, {}, False),
        ((5, 5), 5, {}, False),
        ((1, 5), 5, {}, True),
        ((1, 6), 6, {}, False),
        ((4, 6), 5, {}, False),
        ((4, 5), 5, {"a": 4}, False),
        ((4, 5), 5, {"a": 3}, True),
        ((4, 5), 5, {"b": 5}, True),
    ],
)
def test_faults_are_counted_by_rounds_within_the_last_ones(
    rounds: tuple[int, ...], number: int, released: dict[str, int], held: bool
) -> None:
    found = too_many(RULE, [fault(one) for one in rounds], number, released)
    assert (set(found) == {"a"}) == held


def test_the_reason_says_how_many_where_and_the_last() -> None:
    found = too_many(RULE, [fault(3), fault(5), fault(5, "b")], 5, {})
    assert found == {"a": "faults in 2 of the last 5 rounds (3, 5); the last: why 5"}


@pytest.mark.parametrize(("faults", "rounds"), [(0, 5), (3, 2)])
def test_a_rule_out_of_range_is_named(faults: int, rounds: int) -> None:
    with pytest.raises(InvalidValueError, match="quarantine_"):
        QuarantineRule(faults, rounds)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "state")
    yield store
    store.close()


def test_faults_are_outliers_and_refusals_that_no_honest_device_gets(store: Store) -> None:
    causes = {"a": "malformed", "b": "declined", "c": "out-of-range", "d": "other-round"}
    refusals = tuple(RefusalRecord("run", 2, name, bytes(32), name, cause) for name, cause in causes.items())
    store.updates.commit(Batch((), (), refusals, 0.0))
    outlier = FaultRecord("run", 1, "e", "far away")
    for _ in range(2):
        store.faults.note_outliers([outlier])
    store.faults.note_outliers([FaultRecord("other", 2, "a", "elsewhere")])
    faults = store.faults.since("run", 1)
    assert faults == (outlier, FaultRecord("run", 2, "a", "a"), FaultRecord("run", 2, "c", "c"))
    assert [one.device for one in store.faults.since("run", 2)] == ["a", "c"]


def test_who_is_held_is_remembered_until_released(store: Store, tmp_path: Path) -> None:
    held = QuarantineRecord("a", "run", 4, 1.0, "too much")
    assert store.quarantine.hold([held]) == (held,)
    assert store.quarantine.hold([QuarantineRecord("a", "run", 5, 2.0, "again")]) == ()
    store.close()
    again = Store(tmp_path / "state").quarantine
    assert again.held == (held,)
    assert again.reason("a") == "device a is in quarantine until its operator releases it: too much"
    assert again.reason("b") == ""
    assert again.release("a")
    assert not again.release("a")
    assert not again.holds("a")
    assert again.released("run") == {"a": 4}
    assert again.released("other") == {}
    assert again.hold([QuarantineRecord("a", "run", 9, 3.0, "once more")])
    assert again.released("run") == {}

from dataclasses import replace

import pytest
from sqlalchemy import URL

from server.database import Database
from server.records import Batch, ConflictRecord, RefusalRecord, Selection, UpdateRecord
from server.update_rows import UpdateRows

UPDATE = UpdateRecord("run", 1, "a", b"1" * 32, 0, 10, 1)
OTHER = UpdateRecord("run", 1, "b", b"2" * 32, 10, 5, 1)
KEPT = Selection("a", 1, 1, {"hidden": b"\xa0"}, {"hidden": 2})
REFUSAL = RefusalRecord("run", 1, "c", b"3" * 32, "no", "malformed")


def batch(*updates: UpdateRecord, kept: tuple = (), refused: tuple = ()) -> Batch:
    return Batch(updates, kept, refused, 100.0)


@pytest.fixture
def rows(database_url: URL) -> UpdateRows:
    database = Database(database_url)
    yield UpdateRows(database)
    database.close()


def test_a_batch_is_counted_at_once(rows: UpdateRows) -> None:
    assert rows.commit(batch(UPDATE, OTHER, kept=(KEPT,), refused=(REFUSAL,))) == {
        (1, "a"): b"1" * 32,
        (1, "b"): b"2" * 32,
    }
    assert rows.of_round("run", 1) == (UPDATE, OTHER)
    assert rows.refusals("run", 1) == (REFUSAL,)
    assert rows.selections("run", 1) == {"a": (1, {"hidden": b"\xa0"})}
    assert rows.end("run", 1) == 15
    assert rows.counted_hash("run", 1, "b") == OTHER.sha256
    assert (rows.end("run", 2), rows.counted_hash("run", 2, "b")) == (0, None)


def test_an_update_is_counted_once_whatever_comes_again(rows: UpdateRows) -> None:
    rows.commit(batch(UPDATE, kept=(KEPT,)))
    again = replace(UPDATE, offset=10)
    conflicting = replace(again, sha256=b"9" * 32)
    for repeated in (again, conflicting):
        standing = rows.commit(
            batch(repeated, replace(OTHER, offset=20), kept=(replace(KEPT, kept={"hidden": b"\x10"}),))
        )
        assert standing == {(1, "a"): b"1" * 32, (1, "b"): b"2" * 32}
    assert rows.of_round("run", 1) == (UPDATE, replace(OTHER, offset=20))
    assert rows.selections("run", 1) == {"a": (1, {"hidden": b"\xa0"})}


def test_rounds_and_runs_are_apart(rows: UpdateRows) -> None:
    for record in (UPDATE, replace(UPDATE, round=2, counted_in=2), replace(UPDATE, run="other")):
        rows.commit(batch(record))
    assert [(record.run, record.round) for record in rows.of_run("run")] == [("run", 1), ("run", 2)]
    assert rows.of_round("run", 2) == (replace(UPDATE, round=2, counted_in=2),)


def test_of_a_device_the_newest_selection_stands(rows: UpdateRows) -> None:
    rows.commit(batch(UPDATE, kept=(KEPT,)))
    rows.commit(batch(OTHER, kept=(replace(KEPT, device="b"),)))
    newest = replace(KEPT, round=3, resync_round=3, kept={"hidden": b"\x10"})
    rows.commit(batch(replace(UPDATE, round=3, counted_in=3), kept=(newest,)))
    late = replace(KEPT, round=2, kept={"hidden": b"\x20"})
    rows.commit(batch(replace(UPDATE, round=2, counted_in=3), kept=(late,)))
    assert rows.selections("run", 1) == {"a": (3, {"hidden": b"\x10"}), "b": (1, {"hidden": b"\xa0"})}
    assert rows.selections("run", 2) == {"a": (3, {"hidden": b"\x10"})}
    assert rows.selections("run", 4) == {}


def test_a_late_update_is_of_one_round_and_counted_in_another(rows: UpdateRows) -> None:
    late = replace(UPDATE, counted_in=2, offset=5)
    fresh = replace(UPDATE, round=2, counted_in=2, offset=15)
    standing = rows.commit(batch(fresh, late, replace(OTHER, round=2, counted_in=2, offset=0)))
    assert standing == {(1, "a"): b"1" * 32, (2, "a"): b"1" * 32, (2, "b"): b"2" * 32}
    assert rows.of_round("run", 1) == ()
    assert [(one.round, one.device) for one in rows.of_round("run", 2)] == [(1, "a"), (2, "a"), (2, "b")]
    assert (rows.end("run", 1), rows.end("run", 2)) == (0, 25)
    assert rows.counted_hash("run", 1, "a") == UPDATE.sha256
    assert rows.commit(batch(replace(late, counted_in=3, sha256=b"9" * 32))) == {(1, "a"): b"1" * 32}
    assert rows.of_round("run", 3) == ()


def test_refusals_and_conflicts_take_one_row_a_device_and_round(rows: UpdateRows) -> None:
    rows.commit(batch(refused=(REFUSAL,)))
    newest = replace(REFUSAL, sha256=b"4" * 32, reason="still no")
    rows.commit(batch(refused=(newest, replace(REFUSAL, round=2))))
    assert rows.refusals("run", 1) == (newest,)
    conflict = ConflictRecord("run", 1, "a", b"5" * 32)
    rows.flag([])
    rows.flag([conflict])
    rows.flag([replace(conflict, sha256=b"6" * 32, times=2), replace(conflict, device="b")])
    assert rows.conflicts("run", 1) == (
        replace(conflict, sha256=b"6" * 32, times=3),
        replace(conflict, device="b"),
    )

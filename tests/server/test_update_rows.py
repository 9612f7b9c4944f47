from dataclasses import replace
from pathlib import Path

import pytest

from server.database import Database
from server.records import Batch, ConflictRecord, RefusalRecord, Selection, UpdateRecord
from server.update_rows import UpdateRows

UPDATE = UpdateRecord("run", 1, "a", b"1" * 32, 0, 10)
OTHER = UpdateRecord("run", 1, "b", b"2" * 32, 10, 5)
KEPT = Selection("a", {"hidden": b"\xa0"}, {"hidden": 2})
REFUSAL = RefusalRecord("run", 1, "c", b"3" * 32, "no")


def batch(*updates: UpdateRecord, kept: tuple = (), refused: tuple = ()) -> Batch:
    return Batch(updates, kept, refused, 100.0)


@pytest.fixture
def rows(tmp_path: Path) -> UpdateRows:
    database = Database(tmp_path / "database")
    yield UpdateRows(database)
    database.close()


def test_a_batch_is_counted_at_once(rows: UpdateRows) -> None:
    assert rows.commit(batch(UPDATE, OTHER, kept=(KEPT,), refused=(REFUSAL,))) == {"a": b"1" * 32, "b": b"2" * 32}
    assert rows.of_round("run", 1) == (UPDATE, OTHER)
    assert rows.refusals("run", 1) == (REFUSAL,)
    assert rows.selections("run", 1) == {"a": {"hidden": b"\xa0"}}
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
        assert standing == {"a": b"1" * 32, "b": b"2" * 32}
    assert rows.of_round("run", 1) == (UPDATE, replace(OTHER, offset=20))
    assert rows.selections("run", 1) == {"a": {"hidden": b"\xa0"}}


def test_rounds_and_runs_are_apart(rows: UpdateRows) -> None:
    for record in (UPDATE, replace(UPDATE, round=2), replace(UPDATE, run="other")):
        rows.commit(batch(record))
    assert [(record.run, record.round) for record in rows.of_run("run")] == [("run", 1), ("run", 2)]
    assert rows.of_round("run", 2) == (replace(UPDATE, round=2),)


def test_of_a_device_the_newest_selection_stands(rows: UpdateRows) -> None:
    rows.commit(batch(UPDATE, kept=(KEPT,)))
    rows.commit(batch(OTHER, kept=(replace(KEPT, device="b"),)))
    newest = replace(KEPT, kept={"hidden": b"\x10"})
    rows.commit(batch(replace(UPDATE, round=3), kept=(newest,)))
    assert rows.selections("run", 1) == {"a": {"hidden": b"\x10"}, "b": {"hidden": b"\xa0"}}
    assert rows.selections("run", 2) == {"a": {"hidden": b"\x10"}}
    assert rows.selections("run", 4) == {}


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

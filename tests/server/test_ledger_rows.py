import pytest
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from server.database import Database
from server.errors import StorageError
from server.ledger_rows import LedgerRows
from server.records import Batch, LedgerRecord, UpdateRecord
from server.update_rows import UpdateRows
from wire_protocol.ledger_mark import LedgerMark


@pytest.fixture
def database(database_url: URL) -> Database:
    found = Database(database_url)
    yield found
    found.close()


def count(database: Database, number: int, told: int, sha256: bytes = b"", device: str = "a") -> LedgerRecord:
    """Count the update of a round that tells of so many charges; what it tells."""
    sha256 = sha256 or bytes([number]) * 32
    ledger = LedgerRecord(device, told, sha256[::-1], sha256)
    update = UpdateRecord("run", number, device, sha256, 0, 1, number)
    UpdateRows(database).commit(Batch((update,), (), (), 1.0, (ledger,)))
    return ledger


def mark(told: LedgerRecord) -> LedgerMark:
    return LedgerMark(told.count, told.head)


def test_the_highest_that_others_told_is_seen(database: Database) -> None:
    rows = LedgerRows(database)
    assert rows.seen("a", b"x" * 32) is None
    second, first = count(database, 2, 20), count(database, 1, 10)  # a late update
    assert rows.seen("a", second.sha256) == mark(first)
    assert rows.seen("a", first.sha256) == rows.seen("a", b"x" * 32) == mark(second)
    assert rows.seen("b", b"x" * 32) is None


def test_of_two_that_tell_the_same_count_the_first_stands(database: Database) -> None:
    rows = LedgerRows(database)
    first, copy = count(database, 1, 10), count(database, 2, 10)
    assert rows.seen("a", copy.sha256) == mark(first)
    assert rows.seen("a", first.sha256) is None


def test_what_was_not_counted_is_not_remembered(database: Database) -> None:
    counted = count(database, 1, 10)
    count(database, 1, 99, sha256=b"?" * 32)  # another of this round
    assert LedgerRows(database).seen("a", b"x" * 32) == mark(counted)


def test_update_and_ledger_are_written_together_or_not_at_all(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise SQLAlchemyError("no room")

    monkeypatch.setattr("server.update_rows.note_ledgers", fail)
    with pytest.raises(StorageError):
        count(database, 1, 10)
    monkeypatch.undo()
    assert UpdateRows(database).of_run("run") == ()

"""What counted updates have told of their devices' privacy ledgers, in all runs: a memory for devices that lose theirs.

A device's own word is all that is kept of it: an update is opened by the device's key. Of two that tell the same count
the first stands, so that a device whose state was copied finds the other one's word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from sqlalchemy import Connection, select

from server import tables
from server.database import Database, insert
from server.records import LedgerRecord
from wire_protocol.ledger_mark import LedgerMark


class LedgerRows:
    """The rows of all devices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def seen(self, device: str, sha256: bytes) -> LedgerMark | None:
        """The highest count that the device's other updates than this one told, with its checksum; None without any.

        Not what this one tells: one of two copies that is ahead would only hear its own word again.
        """
        table = tables.ledgers
        query = select(table.c.count, table.c.head).where(table.c.device == device, table.c.sha256 != sha256)
        with self._database.transaction() as connection:
            row = connection.execute(query.order_by(table.c.count.desc()).limit(1)).one_or_none()
        return None if row is None else LedgerMark(*row)


def note_ledgers(connection: Connection, told: Iterable[LedgerRecord]) -> None:
    """Remember what counted updates tell, in the transaction that counts them."""
    rows = [asdict(record) for record in told]
    if rows:
        connection.execute(insert(connection, tables.ledgers).on_conflict_do_nothing(), rows)

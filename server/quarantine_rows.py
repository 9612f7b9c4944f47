"""Rows of devices that are or were in quarantine: one a device, the last time that it was held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from sqlalchemy import select, update

from server import tables
from server.database import Database, insert
from server.records import QuarantineRecord


class QuarantineRows:
    """The rows of all devices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> tuple[QuarantineRecord, ...]:
        """Every device that was ever held, by name."""
        query = select(tables.quarantines).order_by(tables.quarantines.c.device)
        with self._database.transaction() as connection:
            return tuple(QuarantineRecord(**row) for row in connection.execute(query).mappings())

    def released(self, run: str) -> dict[str, int]:
        """Of devices held for faults in this run and released since, the round up to which its faults are forgiven."""
        return {one.device: one.round for one in self.all() if one.run == run and not one.held}

    def hold(self, records: Iterable[QuarantineRecord]) -> None:
        """Note that devices are held, in place of what was noted of them before."""
        rows = [asdict(one) for one in records]
        if not rows:
            return
        with self._database.transaction() as connection:
            statement = insert(connection, tables.quarantines)
            changed = {name: statement.excluded[name] for name in ("run", "round", "at", "reason", "held")}
            connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=changed), rows)

    def release(self, device: str) -> None:
        """Note that a device is held no more."""
        is_device = tables.quarantines.c.device == device
        with self._database.transaction() as connection:
            connection.execute(update(tables.quarantines).where(is_device).values(held=False))

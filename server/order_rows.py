"""What runs were ordered, and where they stand: the part of their rows that orders change.

Each method is one transaction, and what it writes holds from then on: a run that was paused is paused after a kill, and
a resync that is due stays due until the round that is one is opened.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select, update

from server import tables
from server.database import Database
from server.errors import UnknownRunError
from server.records import OrdersRecord
from server.run_status import RunStatus


class OrderRows:
    """The rows of all runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def move(self, run: str, before: Collection[RunStatus], after: RunStatus, reason: str = "") -> bool:
        """Give a run another status, with the reason where it failed; whether it had one of those `before`."""
        table = tables.runs
        statement = update(table).where(table.c.run == run, table.c.status.in_(before))
        with self._database.transaction() as connection:
            return bool(connection.execute(statement.values(status=after, reason=reason)).rowcount)

    def status(self, run: str) -> RunStatus | None:
        """A run's status, None where there is no such run."""
        query = select(tables.runs.c.status).where(tables.runs.c.run == run)
        with self._database.transaction() as connection:
            return connection.execute(query).scalar_one_or_none()

    def order_resync(self, run: str) -> None:
        """The next round that opens is to be a resync."""
        self._set(run, resync_due=True)

    def order_roll_back(self, run: str, version: int) -> None:
        """The next round is to start from this archived version."""
        self._set(run, roll_back_to=version)

    def note_rolled_back(self, run: str, version: int) -> None:
        """An archived version was made the new one of this number."""
        self._set(run, roll_back_to=None, rolled_back=version)

    def of(self, run: str) -> OrdersRecord:
        """What stands of a run; raises `UnknownRunError`."""
        table = tables.runs
        query = select(table.c.resync_due, table.c.roll_back_to, table.c.rolled_back).where(table.c.run == run)
        with self._database.transaction() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise UnknownRunError(f"there is no run {run!r}")
        return OrdersRecord(**row)

    def _set(self, run: str, **values: object) -> None:
        with self._database.transaction() as connection:
            connection.execute(update(tables.runs).where(tables.runs.c.run == run).values(**values))


def note_resync(connection: Connection, run: str) -> None:
    """A resync was opened in this transaction."""
    connection.execute(update(tables.runs).where(tables.runs.c.run == run).values(resync_due=False))

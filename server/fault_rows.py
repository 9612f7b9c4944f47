"""Rows of faults: the updates that were counted and left out as outliers, beside the refusals that are faults."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from sqlalchemy import select, union_all

from server import tables
from server.database import Database, insert
from server.records import FaultRecord
from server.screening import FAULTS


class FaultRows:
    """The rows of all runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note_outliers(self, outliers: Iterable[FaultRecord]) -> None:
        """Note outliers; one that is noted already stays as it is, as a round that closes again finds the same."""
        rows = [asdict(one) for one in outliers]
        if rows:
            with self._database.transaction() as connection:
                connection.execute(insert(connection, tables.outliers).on_conflict_do_nothing(), rows)

    def since(self, run: str, number: int) -> tuple[FaultRecord, ...]:
        """The run's faults of rounds from `number` on, by round and device."""
        outliers, refusals = tables.outliers, tables.refusals
        columns = ("run", "round", "device", "reason")
        query = union_all(
            select(*(outliers.c[name] for name in columns)).where(outliers.c.run == run, outliers.c.round >= number),
            select(*(refusals.c[name] for name in columns)).where(
                refusals.c.run == run, refusals.c.round >= number, refusals.c.cause.in_(sorted(FAULTS))
            ),
        )
        with self._database.transaction() as connection:
            found = [FaultRecord(**row) for row in connection.execute(query).mappings()]
        return tuple(sorted(found, key=lambda one: (one.round, one.device)))

"""Rows of what was counted, refused and in conflict: the half of the spool that says what stands.

Invariants: an update is counted once, by its primary key (run, round, device) and its hash; its row is committed after
its body is durable in the spool, so a row always has its body, and a body without a row was never counted. Refusals and
conflicts take one row for each device and round, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, Table, func, select

from server import tables
from server.database import Database, insert
from server.ledger_rows import note_ledgers
from server.records import Batch, ConflictRecord, RefusalRecord, UpdateRecord

Made = tuple[int, str]
"""The round in which an update was made, and the device."""


class UpdateRows:
    """The rows of all runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def commit(self, batch: Batch) -> dict[Made, bytes]:
        """Make a batch of one run durable in one transaction; what of a device and round was counted is left out.

        Returns the hash that stands counted for each round and device of the batch's updates, which it names once.
        """
        with self._database.transaction() as connection:
            standing = _standing(connection, batch.updates)
            fresh = {_made(record): record for record in batch.updates if _made(record) not in standing}
            _insert(connection, tables.updates, [asdict(record) for record in fresh.values()])
            _keep(connection, batch, fresh)
            counted = {record.sha256 for record in fresh.values()}
            note_ledgers(connection, (one for one in batch.ledgers if one.sha256 in counted))
            _refuse(connection, batch.refusals)
        return standing | {made: record.sha256 for made, record in fresh.items()}

    def end(self, run: str, number: int) -> int:
        """Bytes of the round's segment that rows speak for."""
        last = func.max(tables.updates.c.offset + tables.updates.c.length)
        query = select(last).where(tables.updates.c.run == run, tables.updates.c.counted_in == number)
        with self._database.transaction() as connection:
            return connection.execute(query).scalar_one() or 0

    def counted_hash(self, run: str, number: int, device: str) -> bytes | None:
        """SHA-256 of the update counted for this device in this round, None without one."""
        query = select(tables.updates.c.sha256).where(
            tables.updates.c.run == run, tables.updates.c.round == number, tables.updates.c.device == device
        )
        with self._database.transaction() as connection:
            return connection.execute(query).scalar_one_or_none()

    def of_run(self, run: str) -> tuple[UpdateRecord, ...]:
        """The run's counted updates by round and device."""
        query = select(tables.updates).where(tables.updates.c.run == run)
        return self._records(query.order_by(tables.updates.c.round, tables.updates.c.device), UpdateRecord)

    def of_round(self, run: str, number: int) -> tuple[UpdateRecord, ...]:
        """The updates counted in a round, by the round in which they were made and by device."""
        table = tables.updates
        query = select(table).where(table.c.run == run, table.c.counted_in == number)
        return self._records(query.order_by(table.c.round, table.c.device), UpdateRecord)

    def refusals(self, run: str, number: int) -> tuple[RefusalRecord, ...]:
        """The refusals of a round, by device."""
        return self._records(_of_round(tables.refusals, run, number), RefusalRecord)

    def conflicts(self, run: str, number: int) -> tuple[ConflictRecord, ...]:
        """The conflicts of a round, by device."""
        return self._records(_of_round(tables.conflicts, run, number), ConflictRecord)

    def flag(self, conflicts: Iterable[ConflictRecord]) -> None:
        """Remember conflicts; those of a device and round are counted in one row."""
        rows = [asdict(record) for record in conflicts]
        if not rows:
            return
        with self._database.transaction() as connection:
            statement = insert(connection, tables.conflicts)
            again = {"sha256": statement.excluded.sha256, "times": tables.conflicts.c.times + statement.excluded.times}
            connection.execute(
                statement.on_conflict_do_update(index_elements=["run", "round", "device"], set_=again), rows
            )

    def selections(self, run: str, since: int) -> dict[str, tuple[int, dict[str, bytes]]]:
        """What each device kept in its newest counted update, of those chosen in round `since` or later.

        The round in which the neurons were chosen, and their bitmaps.
        """
        table = tables.selections
        columns = (table.c.device, table.c.resync_round, table.c.kept)
        with self._database.transaction() as connection:
            rows = connection.execute(select(*columns).where(table.c.run == run, table.c.resync_round >= since)).all()
        return {device: (chosen, msgspec.msgpack.decode(kept, type=dict[str, bytes])) for device, chosen, kept in rows}

    def _records(self, query: Select[Any], kind: type[Any]) -> tuple[Any, ...]:
        with self._database.transaction() as connection:
            return tuple(kind(**row) for row in connection.execute(query).mappings())


def _of_round(table: Table, run: str, number: int) -> Select[Any]:
    return select(table).where(table.c.run == run, table.c.round == number).order_by(table.c.device)


def _made(record: UpdateRecord) -> Made:
    return record.round, record.device


def _standing(connection: Connection, records: Sequence[UpdateRecord]) -> dict[Made, bytes]:
    if not records:
        return {}
    table = tables.updates
    query = select(table.c.round, table.c.device, table.c.sha256).where(
        table.c.run == records[0].run,
        table.c.round.in_({record.round for record in records}),
        table.c.device.in_([record.device for record in records]),
    )
    return {(number, device): sha256 for number, device, sha256 in connection.execute(query)}


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


def _keep(connection: Connection, batch: Batch, fresh: Mapping[Made, UpdateRecord]) -> None:
    """Of a device's selections the one of its newest round stays."""
    kept = [selection for selection in batch.selections if (selection.round, selection.device) in fresh]
    if not kept:
        return
    statement = insert(connection, tables.selections)
    changed = {name: statement.excluded[name] for name in ("round", "resync_round", "kept")}
    newer = statement.excluded.round >= tables.selections.c.round
    rows = [
        {
            "run": fresh[one.round, one.device].run,
            "device": one.device,
            "round": one.round,
            "resync_round": one.resync_round,
            "kept": msgspec.msgpack.encode(one.kept),
        }
        for one in kept
    ]
    connection.execute(
        statement.on_conflict_do_update(index_elements=["run", "device"], set_=changed, where=newer), rows
    )
    unknown = {"online": False, "examples": 0, "runtime": "", "client": "", "last_seen": batch.now}
    device = insert(connection, tables.devices)
    heard = {name: device.excluded[name] for name in ("kept", "last_seen")}
    connection.execute(
        device.on_conflict_do_update(index_elements=["id"], set_=heard),
        [{"id": one.device, "kept": dict(one.widths), **unknown} for one in kept],
    )


def _refuse(connection: Connection, refusals: Sequence[RefusalRecord]) -> None:
    if not refusals:
        return
    statement = insert(connection, tables.refusals)
    newest = {name: statement.excluded[name] for name in ("sha256", "reason", "cause")}
    connection.execute(
        statement.on_conflict_do_update(index_elements=["run", "round", "device"], set_=newest),
        [asdict(refusal) for refusal in refusals],
    )

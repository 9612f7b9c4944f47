"""The server's memory: runs, rounds, devices and counted updates, in SQLite. The database is the truth.

Invariants: an update is counted once, by its primary key (run, round, device) and its hash; a round is closed in one
transaction, after its model version is durable on disk. Every method is one transaction and may be called from any
thread; a second `Store` on the same file sees the same.

After a restart a run goes on from its last closed round. The round that was open is abandoned: its update rows are
deleted, as the values behind them were in memory only (a durable spool of received updates is a later step), and the
next round gets the next number, so numbers skip by one and a device that holds a receipt for the abandoned round
takes part again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError

from server import tables
from server.errors import StorageError
from server.records import DeviceRecord, RoundRecord, RunRecord, UpdateRecord

DATABASE_NAME = "fisherfleet.sqlite"
_OPEN, _CLOSED, _ABANDONED = "open", "closed", "abandoned"
_LARGEST_INTEGER = 2**63 - 1


class Store:
    """The database in the folder `state`, which is made when missing. `close` it; a later call opens it again."""

    def __init__(self, state: Path) -> None:
        self._path = state / DATABASE_NAME
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"state folder {state} cannot be made ({error.strerror})") from error
        self._engine = tables.open_engine(self._path)
        with self._transaction() as connection:
            tables.metadata.create_all(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def begin_run(self, record: RunRecord) -> None:
        """Start the run or go on with it; raises `StorageError` when it was started with another bundle."""
        values = {"run": record.run, "bundle": record.bundle, "started": record.started, "config": dict(record.config)}
        statement = insert(tables.runs).values(values)
        changed = {"config": statement.excluded.config}
        with self._transaction() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["run"], set_=changed))
            query = select(tables.runs.c.bundle).where(tables.runs.c.run == record.run)
            bundle = connection.execute(query).scalar_one()
            if bundle != record.bundle:
                raise StorageError(
                    f"run {record.run} in {self._path} was started with bundle {bundle}, got {record.bundle}: "
                    "choose another run or another state folder"
                )

    def runs(self) -> tuple[RunRecord, ...]:
        """All runs, the newest first."""
        closed = (
            select(func.count())
            .where(tables.rounds.c.run == tables.runs.c.run, tables.rounds.c.status == _CLOSED)
            .scalar_subquery()
        )
        query = select(tables.runs, closed.label("rounds_closed")).order_by(tables.runs.c.started.desc())
        with self._transaction() as connection:
            return tuple(RunRecord(**row) for row in connection.execute(query).mappings())

    def run(self, run: str) -> RunRecord | None:
        """One run, None when there is none of this name."""
        return next((record for record in self.runs() if record.run == run), None)

    def last_round(self, run: str) -> int:
        """The highest round number ever opened, 0 before the first."""
        query = select(func.max(tables.rounds.c.round)).where(tables.rounds.c.run == run)
        with self._transaction() as connection:
            return connection.execute(query).scalar_one() or 0

    def open_round(self, run: str, number: int, resync: bool) -> None:
        """Note that a round is open, before its plan is published."""
        with self._transaction() as connection:
            connection.execute(insert(tables.rounds).values(run=run, round=number, status=_OPEN, resync=resync))

    def abandon_open_rounds(self, run: str) -> tuple[int, ...]:
        """Abandon what a process that is gone left open; returns the rounds' numbers."""
        with self._transaction() as connection:
            is_open = (tables.rounds.c.run == run) & (tables.rounds.c.status == _OPEN)
            numbers = tuple(connection.execute(select(tables.rounds.c.round).where(is_open)).scalars())
            connection.execute(
                tables.updates.delete().where(tables.updates.c.run == run, tables.updates.c.round.in_(numbers))
            )
            connection.execute(update(tables.rounds).where(is_open).values(status=_ABANDONED))
        return numbers

    def close_round(self, run: str, record: RoundRecord) -> None:
        """Make an open round's result durable."""
        values = {name: _fitting(value) for name, value in asdict(record).items()}
        with self._transaction() as connection:
            connection.execute(
                update(tables.rounds).where(_is_round(run, record.round)).values(**values, status=_CLOSED)
            )

    def rounds(self, run: str) -> tuple[RoundRecord, ...]:
        """The run's closed rounds in order."""
        query = (
            select(*(tables.rounds.c[field.name] for field in fields(RoundRecord)))
            .where(tables.rounds.c.run == run, tables.rounds.c.status == _CLOSED)
            .order_by(tables.rounds.c.round)
        )
        with self._transaction() as connection:
            return tuple(RoundRecord(**row) for row in connection.execute(query).mappings())

    def count_update(self, record: UpdateRecord) -> bytes:
        """Count an update unless one of this device is counted in this round; returns the hash that stands counted."""
        statement = insert(tables.updates).values(asdict(record)).on_conflict_do_nothing()
        with self._transaction() as connection:
            connection.execute(statement)
            standing: bytes = connection.execute(_counted_hash(record.run, record.round, record.device)).scalar_one()
            return standing

    def counted_hash(self, run: str, number: int, device: str) -> bytes | None:
        """SHA-256 of the update counted for this device in this round, None without one."""
        with self._transaction() as connection:
            return connection.execute(_counted_hash(run, number, device)).scalar_one_or_none()

    def updates(self, run: str) -> tuple[UpdateRecord, ...]:
        """The run's counted updates by round and device."""
        query = (
            select(tables.updates)
            .where(tables.updates.c.run == run)
            .order_by(tables.updates.c.round, tables.updates.c.device)
        )
        with self._transaction() as connection:
            return tuple(UpdateRecord(**row) for row in connection.execute(query).mappings())

    def save_device(self, record: DeviceRecord) -> None:
        """Remember what a device said of itself; what it kept stays as it was."""
        values = asdict(record) | {"examples": _fitting(record.examples), "kept": dict(record.kept)}
        statement = insert(tables.devices).values(values)
        said = {name: statement.excluded[name] for name in ("online", "examples", "runtime", "client", "last_seen")}
        with self._transaction() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=said))

    def save_kept(self, device: str, kept: Mapping[str, int], now: float) -> None:
        """Remember the widths of a device's counted update; a device never heard of before is added as offline."""
        statement = insert(tables.devices).values(
            id=device, online=False, examples=0, runtime="", client="", last_seen=now, kept=dict(kept)
        )
        changed = {name: statement.excluded[name] for name in ("kept", "last_seen")}
        with self._transaction() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed))

    def forget_presence(self) -> None:
        """Take every device for offline, as nobody has listened to the broker for a while."""
        with self._transaction() as connection:
            connection.execute(update(tables.devices).values(online=False))

    def devices(self) -> tuple[DeviceRecord, ...]:
        """All devices ever heard, by name."""
        with self._transaction() as connection:
            rows: list[RowMapping] = list(
                connection.execute(select(tables.devices).order_by(tables.devices.c.id)).mappings()
            )
        return tuple(DeviceRecord(**row) for row in rows)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise StorageError(f"database {self._path}: {reason}") from error


def _is_round(run: str, number: int) -> ColumnElement[bool]:
    return (tables.rounds.c.run == run) & (tables.rounds.c.round == number)


def _counted_hash(run: str, number: int, device: str) -> Any:
    return select(tables.updates.c.sha256).where(
        tables.updates.c.run == run, tables.updates.c.round == number, tables.updates.c.device == device
    )


def _fitting(value: Any) -> Any:
    """An integer that SQLite can hold."""
    return min(value, _LARGEST_INTEGER) if isinstance(value, int) and not isinstance(value, bool) else value

"""The server's memory: runs, rounds and devices. The database is the truth. Updates are in `update_rows`,
what they tell of ledgers in `ledger_rows`.

Invariants: a round is opened, with its plan, before the plan is published; it is closed in one transaction, after its
model version is durable on disk. Every method is one transaction and may be called from any thread; a second `Store`
on the same file sees the same. Opening, prolonging and closing may be repeated when it is not known whether they were
done.

After a restart a run goes on where it was: a round that was open is open, with its plan, those it expected, and the
updates counted in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import URL, ColumnElement, RowMapping, false, func, select, update

from server import tables
from server.clocks import SYSTEM_CLOCKS
from server.database import Database, fitting, insert
from server.database_url import sqlite_url
from server.device_tags import DeviceTags
from server.enrolments import Enrolments
from server.errors import StorageError
from server.event_log import EventLog
from server.fault_rows import FaultRows
from server.ledger_rows import LedgerRows
from server.model_archive import ArchiveSettings, ModelArchive
from server.order_rows import OrderRows, note_resync
from server.participation_rows import ParticipationRows
from server.promotions import Promotions
from server.quarantine import Quarantine
from server.quarantine_rows import QuarantineRows
from server.records import (
    NOTHING_CARRIED,
    CarriedRecord,
    DeviceRecord,
    FleetHealth,
    OpeningRecord,
    RoundRecord,
    RunRecord,
)
from server.releases.release_rows import ReleaseRows
from server.replies import Replies
from server.tokens import Tokens
from server.update_rows import UpdateRows
from wire_protocol import messages
from wire_protocol.messages import RoundPlan

DATABASE_NAME = "fisherfleet.sqlite"
DEFAULT_ARCHIVE = ArchiveSettings()
_SAID = (
    "online", "examples", "runtime", "client", "last_seen", "release", "temperature", "throttled", "paused",
    "budget_left", "free_mb",
)  # fmt: skip
_RUN_COLUMNS = ("run", "bundle", "started", "config", "status", "reason")


def database_of(state: Path, url: URL | None) -> URL:
    """Where the database of a state folder is: at `url`, without one a SQLite file in it."""
    return url or sqlite_url(state / DATABASE_NAME)


class Store:
    """The database of the folder `state`, which is made when missing: at `url`, without one a SQLite file in it.

    `archive` says where versions of models are kept. `close` it; a later call opens it again.
    """

    def __init__(self, state: Path, url: URL | None = None, archive: ArchiveSettings = DEFAULT_ARCHIVE) -> None:
        blobs = archive.blobs_in(state)
        try:
            state.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"state folder {state} cannot be made ({error.strerror})") from error
        self.folder = state
        self._database = Database(database_of(state, url))
        self.orders = OrderRows(self._database)
        self.updates = UpdateRows(self._database)
        self.ledgers = LedgerRows(self._database)
        self.participation = ParticipationRows(self._database)
        self.tokens = Tokens(self._database, SYSTEM_CLOCKS.wall)
        self.replies = Replies(self._database, SYSTEM_CLOCKS.wall)
        self.enrolments = Enrolments(self._database, SYSTEM_CLOCKS.wall)
        self.tags = DeviceTags(self._database)
        self.archive = ModelArchive(self._database, blobs, SYSTEM_CLOCKS.wall, archive.keep_models)
        self.promotions = Promotions(self._database, self.archive, state / "promoted", SYSTEM_CLOCKS.wall)
        self.releases = ReleaseRows(self._database, state / "releases", SYSTEM_CLOCKS.wall)
        self.faults = FaultRows(self._database)
        self.quarantine = Quarantine(QuarantineRows(self._database))
        self.events = EventLog(self._database, SYSTEM_CLOCKS.wall)

    def claim(self) -> None:
        """Be the one server on this database from now on; raises `StorageError` where there is another."""
        self._database.claim()

    def require_writable(self) -> None:
        """Raise `StorageError` where the database takes no writes now; changes nothing."""
        with self._database.transaction() as connection:
            connection.execute(update(tables.devices).where(false()).values(online=False))

    def close(self) -> None:
        """Close all connections."""
        self.events.close()
        self._database.close()

    def begin_run(self, record: RunRecord) -> None:
        """Make a run or go on with it by this configuration, its status as it was; raises `StorageError` when it was
        started with another bundle.
        """
        values = {name: getattr(record, name) for name in _RUN_COLUMNS} | {"config": dict(record.config)}
        with self._database.transaction() as connection:
            statement = insert(connection, tables.runs).values(values)
            changed = {"config": statement.excluded.config}
            connection.execute(statement.on_conflict_do_update(index_elements=["run"], set_=changed))
            query = select(tables.runs.c.bundle).where(tables.runs.c.run == record.run)
            bundle = connection.execute(query).scalar_one()
            if bundle != record.bundle:
                raise StorageError(
                    f"run {record.run} in {self._database.name} was started with bundle {bundle}, got {record.bundle}: "
                    "choose another run or another state folder"
                )

    def runs(self) -> tuple[RunRecord, ...]:
        """All runs, the newest first."""
        closed = (
            select(func.count())
            .where(tables.rounds.c.run == tables.runs.c.run, tables.rounds.c.status == tables.CLOSED)
            .scalar_subquery()
        )
        columns = (tables.runs.c[name] for name in _RUN_COLUMNS)
        query = select(*columns, closed.label("rounds_closed")).order_by(tables.runs.c.started.desc())
        with self._database.transaction() as connection:
            return tuple(RunRecord(**row) for row in connection.execute(query).mappings())

    def run(self, run: str) -> RunRecord | None:
        """One run, None when there is none of this name."""
        return next((record for record in self.runs() if record.run == run), None)

    def open_round(self, opening: OpeningRecord) -> None:
        """Note that a round is open, before its plan is published."""
        plan = opening.plan
        values = {
            "run": plan.run,
            "round": plan.round,
            "status": tables.OPEN,
            "resync": plan.resync,
            "plan": messages.encode(plan),
            "expected": sorted(opening.expected),
            "opened": opening.opened,
        }
        with self._database.transaction() as connection:
            statement = insert(connection, tables.rounds).values(values)
            changed = {name: statement.excluded[name] for name in ("plan", "expected", "opened")}
            connection.execute(statement.on_conflict_do_update(index_elements=["run", "round"], set_=changed))
            if plan.resync:
                note_resync(connection, plan.run)

    def extend_round(self, plan: RoundPlan) -> None:
        """Note that the plan of an open round has another deadline, before it is published."""
        is_open = _is_round(plan.run, plan.round) & (tables.rounds.c.status == tables.OPEN)
        with self._database.transaction() as connection:
            connection.execute(update(tables.rounds).where(is_open).values(plan=messages.encode(plan)))

    def opening(self, run: str) -> OpeningRecord | None:
        """The round that is open, None without one."""
        query = select(tables.rounds).where(tables.rounds.c.run == run, tables.rounds.c.status == tables.OPEN)
        with self._database.transaction() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        return OpeningRecord(messages.decode(row["plan"], RoundPlan), frozenset(row["expected"]), row["opened"])

    def last_plan(self, run: str) -> RoundPlan | None:
        """The plan of the round last opened, whatever became of it; None before the first."""
        query = select(tables.rounds.c.plan).where(tables.rounds.c.run == run)
        with self._database.transaction() as connection:
            plan = connection.execute(query.order_by(tables.rounds.c.round.desc()).limit(1)).scalar_one_or_none()
        return None if plan is None else messages.decode(plan, RoundPlan)

    def opened_since(self, run: str, number: int) -> int:
        """How many rounds were opened from this number on, whatever became of them."""
        query = select(func.count()).where(tables.rounds.c.run == run, tables.rounds.c.round >= number)
        with self._database.transaction() as connection:
            return connection.execute(query).scalar_one()

    def recent_plans(self, run: str, oldest_version: int) -> tuple[RoundPlan, ...]:
        """The plans of the last rounds, the newest first, back to the first that trains an older model version."""
        query = select(tables.rounds.c.plan).where(tables.rounds.c.run == run).order_by(tables.rounds.c.round.desc())
        with self._database.transaction() as connection:
            plans = (messages.decode(plan, RoundPlan) for plan in connection.execute(query).scalars())
            return tuple(takewhile(lambda plan: plan.model_version >= oldest_version, plans))

    def plan(self, run: str, number: int) -> RoundPlan | None:
        """The plan of a round, whatever became of it; None when it was never opened."""
        query = select(tables.rounds.c.plan).where(_is_round(run, number))
        with self._database.transaction() as connection:
            plan = connection.execute(query).scalar_one_or_none()
        return None if plan is None else messages.decode(plan, RoundPlan)

    def abandon_round(self, run: str, number: int) -> None:
        """Forget an open round in which nobody was counted."""
        with self._database.transaction() as connection:
            is_open = _is_round(run, number) & (tables.rounds.c.status == tables.OPEN)
            connection.execute(update(tables.rounds).where(is_open).values(status=tables.ABANDONED))

    def close_round(self, run: str, record: RoundRecord, carried: CarriedRecord = NOTHING_CARRIED) -> None:
        """Make an open round's result durable, and what it says for the next ones' plans."""
        values: dict[str, Any] = {name: fitting(value) for name, value in asdict(record).items()}
        values |= {"ranking": msgspec.msgpack.encode(dict(carried.ranking)), "clip_norm": carried.clip_norm}
        with self._database.transaction() as connection:
            connection.execute(
                update(tables.rounds).where(_is_round(run, record.round)).values(**values, status=tables.CLOSED)
            )

    def ranking(self, run: str) -> dict[str, bytes]:
        """The ranking that the run's last closed resync round made, empty without one."""
        query = select(tables.rounds.c.ranking).where(
            tables.rounds.c.run == run, tables.rounds.c.status == tables.CLOSED, tables.rounds.c.resync
        )
        with self._database.transaction() as connection:
            ranking = connection.execute(query.order_by(tables.rounds.c.round.desc()).limit(1)).scalar_one_or_none()
        return {} if ranking is None else msgspec.msgpack.decode(ranking, type=dict[str, bytes])

    def clip_norm(self, run: str) -> float | None:
        """The clip norm that the run's last closed round left for the next; None where it left none."""
        query = select(tables.rounds.c.clip_norm).where(
            tables.rounds.c.run == run, tables.rounds.c.status == tables.CLOSED
        )
        with self._database.transaction() as connection:
            return connection.execute(query.order_by(tables.rounds.c.round.desc()).limit(1)).scalar_one_or_none()

    def rounds(self, run: str, after: int = 0, most: int | None = None) -> tuple[RoundRecord, ...]:
        """The run's closed rounds in order, those with numbers above `after`, at most so many."""
        query = (
            select(*(tables.rounds.c[field.name] for field in fields(RoundRecord)))
            .where(tables.rounds.c.run == run, tables.rounds.c.status == tables.CLOSED, tables.rounds.c.round > after)
            .order_by(tables.rounds.c.round)
            .limit(most)
        )
        with self._database.transaction() as connection:
            return tuple(RoundRecord(**row) for row in connection.execute(query).mappings())

    def save_devices(self, records: Sequence[DeviceRecord]) -> None:
        """Remember what devices, each named once, said of themselves; what they kept stays as it was, and so does what
        else was said before by one that says that it goes.
        """
        with self._database.transaction() as connection:
            statement = insert(connection, tables.devices)
            for online, columns in ((True, _SAID), (False, ("online", "last_seen"))):
                rows = [_device(one) for one in records if one.online == online]
                if rows:
                    said = {name: statement.excluded[name] for name in columns}
                    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=said), rows)

    def fleet_health(self) -> FleetHealth:
        """How the devices online are, all together."""
        devices = tables.devices.c
        query = select(
            func.count().filter(devices.paused != ""),
            func.count().filter(devices.throttled.is_(True)),
            func.max(devices.temperature),
            func.min(devices.budget_left),
        ).where(devices.online.is_(True))
        with self._database.transaction() as connection:
            return FleetHealth(*connection.execute(query).one())

    def forget_presence(self) -> None:
        """Take every device for offline: the server stops, and nobody will listen to the broker for a while."""
        with self._database.transaction() as connection:
            connection.execute(update(tables.devices).values(online=False))

    def device_names(self, online: bool | None = None) -> frozenset[str]:
        """The devices ever heard; only those online, or only the others, where that is asked for."""
        query = select(tables.devices.c.id)
        if online is not None:
            query = query.where(tables.devices.c.online.is_(online))
        with self._database.transaction() as connection:
            return frozenset(connection.execute(query).scalars())

    def devices(self, names: Sequence[str] | None = None) -> tuple[DeviceRecord, ...]:
        """All devices ever heard, or of them those named, by name."""
        conflicts = (
            select(func.coalesce(func.sum(tables.conflicts.c.times), 0))
            .where(tables.conflicts.c.device == tables.devices.c.id)
            .scalar_subquery()
        )
        query = select(tables.devices, conflicts.label("conflicts")).order_by(tables.devices.c.id)
        if names is not None:
            query = query.where(tables.devices.c.id.in_(names))
        with self._database.transaction() as connection:
            rows: list[RowMapping] = list(connection.execute(query).mappings())
        return tuple(DeviceRecord(**row) for row in rows)


def _is_round(run: str, number: int) -> ColumnElement[bool]:
    return (tables.rounds.c.run == run) & (tables.rounds.c.round == number)


def _device(record: DeviceRecord) -> dict[str, Any]:
    values = {name: fitting(value) for name, value in asdict(record).items()} | {"kept": dict(record.kept)}
    del values["conflicts"]
    return values

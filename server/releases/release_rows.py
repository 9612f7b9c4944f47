"""Releases of the client, how they are rolled out, and what devices say of them: in the database, archives on disk.

Every method is one transaction and may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select, update

from server import tables
from server.content_files import ContentFiles
from server.database import Database, insert
from server.errors import ConflictError, UnknownReleaseError
from server.releases.release_file import SignedRelease
from server.releases.rollout import Rollout, RolloutStatus
from wire_protocol.releases import MAX_RELEASES, ReleaseReport, ReleaseStatus

MOST_KEPT = 32
"""Archives, those that came last: some versions for some systems."""

_releases, _rollouts, _reports = tables.releases.c, tables.rollouts.c, tables.release_reports.c


@dataclass(frozen=True)
class ReleaseRecord:
    """A release's archive; `at` in seconds since the Unix epoch."""

    sha256: str
    version: str
    system: str
    python: str
    architecture: str
    size: int
    at: float


@dataclass(frozen=True)
class RolloutRecord:
    """A rollout as it was ordered, and whether it goes on; `reason` says why it does not."""

    id: int
    rollout: Rollout
    status: RolloutStatus
    reason: str
    actor: str
    at: float


@dataclass(frozen=True)
class ReportRecord:
    """What a device last said: the version it runs, what became of an offer, and the promoted models that it has."""

    device: str
    version: str
    offered: str
    attempt: int
    status: ReleaseStatus
    reason: str
    models: Mapping[str, int]
    at: float


class ReleaseRows:
    """The rows in `database`, and the `archives` in `folder`; `clock` gives seconds since the Unix epoch."""

    def __init__(self, database: Database, folder: Path, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self.archives = ContentFiles(folder, MOST_KEPT)
        self.archives.resume(record.sha256 for record in reversed(self.releases()))

    def add(self, signed: SignedRelease, archive: bytes) -> ReleaseRecord:
        """Keep a release, in place of another one of its version for the same system.

        Raises `ConflictError` where the version has too many, and `StorageError`.
        """
        release = signed.release
        self.archives.publish(archive)
        row: dict[str, Any] = {
            field.name: getattr(release, field.name) for field in fields(ReleaseRecord) if field.name != "at"
        }
        row |= {"at": self._clock(), "signed": signed.signed}
        with self._database.transaction() as connection:
            statement = insert(connection, tables.releases).values(row)
            changed = {name: statement.excluded[name] for name in row if name not in ("version", "system")}
            connection.execute(statement.on_conflict_do_update(index_elements=["version", "system"], set_=changed))
            gone = [
                digest
                for digest in connection.execute(select(_releases.sha256)).scalars()
                if self.archives.path_of(digest) is None
            ]
            connection.execute(delete(tables.releases).where(_releases.sha256.in_(gone)))
            count = select(func.count()).where(_releases.version == release.version)
            if connection.execute(count).scalar_one() > MAX_RELEASES:
                connection.rollback()
                raise ConflictError(f"release {release.version} is there for {MAX_RELEASES} systems already")
        return ReleaseRecord(**{name: row[name] for name in row if name != "signed"})

    def releases(self) -> tuple[ReleaseRecord, ...]:
        """All releases, the newest first."""
        columns = (_releases[field.name] for field in fields(ReleaseRecord))
        query = select(*columns).order_by(_releases.at.desc(), _releases.sha256)
        with self._database.transaction() as connection:
            return tuple(ReleaseRecord(**row) for row in connection.execute(query).mappings())

    def signed(self, version: str) -> tuple[bytes, ...]:
        """The signed words on the releases of a version."""
        query = select(_releases.signed).where(_releases.version == version).order_by(_releases.system)
        with self._database.transaction() as connection:
            return tuple(connection.execute(query).scalars())

    def roll_out(self, rollout: Rollout, actor: str, again: bool = False) -> RolloutRecord:
        """Offer a version; `again` also to devices on which it failed. Raises `UnknownReleaseError`."""
        with self._database.transaction() as connection:
            known = select(func.count()).where(_releases.version == rollout.version)
            if not connection.execute(known).scalar_one():
                raise UnknownReleaseError(f"there is no release {rollout.version!r}; GET /api/v1/releases lists them")
            last = select(func.max(_rollouts.attempt)).where(_rollouts.version == rollout.version)
            attempt = (connection.execute(last).scalar_one() or 0) + (1 if again else 0)
            row = asdict(rollout) | {"attempt": max(1, attempt), "devices": list(rollout.devices)}
            row |= {"status": "going", "reason": "", "actor": actor, "at": self._clock()}
            number = connection.execute(tables.rollouts.insert().values(row).returning(_rollouts.id)).scalar_one()
        return _rollout(row | {"id": number})

    def rollouts(self) -> tuple[RolloutRecord, ...]:
        """All rollouts, the newest first."""
        query = select(tables.rollouts).order_by(_rollouts.id.desc())
        with self._database.transaction() as connection:
            return tuple(_rollout(row) for row in connection.execute(query).mappings())

    def halt(self, number: int, reason: str) -> RolloutRecord:
        """Offer it no longer; raises `UnknownReleaseError`."""
        mine = _rollouts.id == number
        going = update(tables.rollouts).where(mine, _rollouts.status == "going")
        with self._database.transaction() as connection:
            connection.execute(going.values(status="halted", reason=reason))
            row = connection.execute(select(tables.rollouts).where(mine)).mappings().one_or_none()
        if row is None:
            raise UnknownReleaseError(f"there is no rollout {number}; GET /api/v1/rollouts lists them")
        return _rollout(row)

    def note_reports(self, reports: Mapping[str, ReleaseReport]) -> None:
        """Remember what devices said, by device."""
        now = self._clock()
        rows = [
            {name: getattr(report, name) for name in ("version", "offered", "attempt", "status", "reason")}
            | {"device": device, "models": dict(report.models), "at": now}
            for device, report in reports.items()
        ]
        if not rows:
            return
        with self._database.transaction() as connection:
            statement = insert(connection, tables.release_reports)
            changed = {name: statement.excluded[name] for name in rows[0] if name != "device"}
            connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=changed), rows)

    def reports(self) -> tuple[ReportRecord, ...]:
        """What all devices last said, by device."""
        query = select(tables.release_reports).order_by(_reports.device)
        with self._database.transaction() as connection:
            return tuple(ReportRecord(**row) for row in connection.execute(query).mappings())


def _rollout(row: Mapping[Any, Any]) -> RolloutRecord:
    values = {field.name: row[field.name] for field in fields(Rollout)}
    rollout = Rollout(**values | {"devices": tuple(row["devices"])})
    return RolloutRecord(row["id"], rollout, row["status"], row["reason"], row["actor"], row["at"])

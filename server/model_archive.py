"""Versions of a run's model that are kept: the newest few, the best, and the one that is promoted.

Invariants: a version is in the database only once its content is among the blobs, and content goes before its row does;
so what a kill leaves behind is finished by the next `add`, which may be repeated. Functions block; any thread may call
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from server import tables
from server.blobs import Blobs
from server.database import Database, insert
from server.errors import StorageError, UnknownRunError
from server.records import ModelVersionRecord, RoundRecord
from wire_protocol.errors import require

BLOBS_NAME = "blobs"
_SHOWN = 16
"""Versions that an error names."""


@dataclass(frozen=True)
class ArchiveSettings:
    """Where archived versions are, `blobs` as in `server.blobs`, None for a folder of the state folder's; and how many
    of each run.
    """

    blobs: str | None = None
    keep_models: int = 10

    def __post_init__(self) -> None:
        require(self.keep_models >= 1, "keep_models", self.keep_models, "at least 1")

    def blobs_in(self, state: Path) -> Blobs:
        """The blobs; raises `InvalidValueError`."""
        return Blobs(self.blobs or (state.resolve() / BLOBS_NAME).as_uri())


class ModelArchive:
    """The archived versions of all runs, the newest `keep` of each; `clock` gives seconds since the Unix epoch."""

    def __init__(self, database: Database, blobs: Blobs, clock: Callable[[], float], keep: int) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._keep = keep

    def add(self, run: str, record: RoundRecord, path: Path) -> None:
        """Archive the version that a round made, a safetensors file, and let go of those that are too many."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StorageError(f"{path} cannot be read ({error.strerror})") from error
        version = ModelVersionRecord(
            version=record.model_version,
            round=record.round,
            at=self._clock(),
            accuracy=record.accuracy,
            loss=record.loss,
            sha256=self._blobs.put(content),
            size=len(content),
        )
        replaced = self._note(run, version)
        if replaced is not None:
            self._forget_content(replaced)
        for old in _too_many(self.versions(run), self._keep):
            self._retire(run, old)

    def versions(self, run: str) -> tuple[ModelVersionRecord, ...]:
        """The run's archived versions, the oldest first."""
        columns = (tables.models.c[field.name] for field in fields(ModelVersionRecord))
        query = select(*columns).where(tables.models.c.run == run).order_by(tables.models.c.version)
        with self._database.transaction() as connection:
            return tuple(ModelVersionRecord(**row) for row in connection.execute(query).mappings())

    def version(self, run: str, version: int) -> ModelVersionRecord:
        """One of them; raises `UnknownRunError` that names those there are."""
        versions = self.versions(run)
        found = next((each for each in versions if each.version == version), None)
        if found is None:
            raise _not_archived(run, version, versions)
        return found

    def open(self, run: str, version: int) -> bytes:
        """A version as safetensors, float32; raises `UnknownRunError`, `DamagedError` and `StorageError`."""
        return self._blobs.get(self.version(run, version).sha256)

    def promote(self, run: str, version: int) -> None:
        """Make this the run's version for inference, in place of any other; raises `UnknownRunError`."""
        with self._database.transaction() as connection:
            of_run = tables.models.c.run == run
            connection.execute(update(tables.models).where(of_run).values(promoted=tables.models.c.version == version))
            chosen = select(func.count()).where(_is_version(run, version), tables.models.c.promoted)
            if connection.execute(chosen).scalar_one():
                return
            connection.rollback()
        raise _not_archived(run, version, self.versions(run))

    def _note(self, run: str, version: ModelVersionRecord) -> str | None:
        """Write a version down; the SHA-256 of other content that it had, if any."""
        with self._database.transaction() as connection:
            query = select(tables.models.c.sha256).where(_is_version(run, version.version))
            before = connection.execute(query).scalar_one_or_none()
            values: dict[str, Any] = {"run": run, **asdict(version)}
            statement = insert(connection, tables.models).values(values)
            changed = {name: statement.excluded[name] for name in values if name not in ("run", "version", "promoted")}
            connection.execute(statement.on_conflict_do_update(index_elements=["run", "version"], set_=changed))
        return before if before != version.sha256 else None

    def _retire(self, run: str, version: ModelVersionRecord) -> None:
        self._forget_content(version.sha256, spoken_for=1)
        with self._database.transaction() as connection:
            connection.execute(delete(tables.models).where(_is_version(run, version.version)))

    def _forget_content(self, digest: str, spoken_for: int = 0) -> None:
        with self._database.transaction() as connection:
            if _rows_of(connection, digest) > spoken_for:
                return
        self._blobs.delete(digest)


def _not_archived(run: str, version: int, versions: tuple[ModelVersionRecord, ...]) -> UnknownRunError:
    newest = ", ".join(str(each.version) for each in versions[-_SHOWN:])
    older = f" and {len(versions) - _SHOWN} older ones" if len(versions) > _SHOWN else ""
    there = f"these are: {newest}{older}" if versions else "none is"
    return UnknownRunError(f"version {version} of run {run} is not archived; {there}")


def _too_many(versions: tuple[ModelVersionRecord, ...], keep: int) -> tuple[ModelVersionRecord, ...]:
    """All but the newest, the best, and the promoted one."""
    best = max(versions, key=_quality).version
    return tuple(each for each in versions[:-keep] if each.version != best and not each.promoted)


def _quality(version: ModelVersionRecord) -> tuple[float, float, int]:
    """By accuracy, then by loss, then the newer one."""
    accuracy = -1.0 if version.accuracy is None else version.accuracy
    loss = float("inf") if version.loss is None or version.loss != version.loss else version.loss
    return accuracy, -loss, version.version


def _rows_of(connection: Connection, digest: str) -> int:
    query = select(func.count()).select_from(tables.models).where(tables.models.c.sha256 == digest)
    return int(connection.execute(query).scalar_one())


def _is_version(run: str, version: int) -> ColumnElement[bool]:
    return (tables.models.c.run == run) & (tables.models.c.version == version)

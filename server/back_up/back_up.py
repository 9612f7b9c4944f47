"""Put all that a server knows into one file, while it works or not.

In it are the database's rows and the state folder's files as they were at one moment, so that a server that begins from
them goes on as one that was killed at that moment. Of the operator's folder the fleet's name and the registry of
devices are in it where it is given, its keys only where that is asked for: who has them can sign plans and open
updates. Not in it are archived models in another place than the state folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from sqlalchemy import URL, Engine

from server.back_up.archive_file import FORMAT, Head, Writer, writing
from server.back_up.state_files import hold_still
from server.back_up.table_rows import dump
from server.database import opened
from server.database_schema import schema_version, versions
from server.database_snapshot import snapshot
from server.database_url import shown_database
from server.errors import StorageError
from server.operator_keys import FLEET_NAME
from server.registry import REGISTRY_NAME
from server.storage import database_of


@dataclass(frozen=True)
class Subject:
    """What is backed up: the state folder, the database, None for the file in it, and the operator's folder, if at all;
    all of that `with_keys`.
    """

    state: Path
    database: URL | None = None
    fleet: Path | None = None
    with_keys: bool = False


def back_up(subject: Subject, out: Path, now: float) -> None:
    """Write a back-up; `now` is seconds since the Unix epoch. Raises `StorageError`, and then there is none."""
    if not subject.state.is_dir():
        raise StorageError(f"there is no state folder {subject.state}")
    with opened(database_of(subject.state, subject.database)) as engine:
        version = _require_newest(engine)
        with writing(out, Head(FORMAT, version, now)) as writer:
            _write(subject, engine, writer)


def _require_newest(engine: Engine) -> str:
    with engine.connect() as connection:
        found = schema_version(connection)
    if found != versions()[-1]:
        shown = shown_database(engine.url)
        raise StorageError(
            f"database {shown} has version {found}, expected {versions()[-1]}: back it up with the server that made it"
        )
    return found


def _write(subject: Subject, engine: Engine, writer: Writer) -> None:
    with TemporaryDirectory(prefix=".back-up-", dir=subject.state) as held:
        with snapshot(engine, lambda: hold_still(subject.state, Path(held))) as connection:
            for number, rows in enumerate(dump(connection)):
                writer.add(f"tables/{number:08}", msgspec.msgpack.encode(rows))
        _add_folder(writer, "state", Path(held))
    if subject.fleet is not None and subject.with_keys:
        _add_folder(writer, "fleet", subject.fleet)
    elif subject.fleet is not None:
        for name in (FLEET_NAME, REGISTRY_NAME):
            writer.add_file(f"fleet/{name}", subject.fleet / name)


def _add_folder(writer: Writer, name: str, folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            writer.add_file(f"{name}/{path.relative_to(folder)}", path)

"""Make a state folder and a database of a back-up, of either kind whatever it was made of.

Invariant: the database's rows come in one transaction, and the state folder's files are in place only after it.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from sqlalchemy import URL, Connection, MetaData, Table, inspect

from server.back_up.archive_file import Reader, reading
from server.back_up.table_rows import TableRows, count_on, put_back
from server.database import opened
from server.database_schema import upgrade, versions
from server.database_url import shown_database
from server.errors import DamagedError, StorageError
from server.storage import database_of

_WORKSHOP = ".restore"


@dataclass(frozen=True)
class Place:
    """Where a back-up is restored to: an empty or missing folder, an empty database, None for a file in the folder, and
    an empty or missing folder for what it has of the operator's, None to leave that out.
    """

    state: Path
    database: URL | None = None
    fleet: Path | None = None


def restore(path: Path, place: Place) -> None:
    """Restore a back-up; raises `StorageError` and `DamagedError`, and then nothing is in place."""
    for folder in (place.state, *([place.fleet] if place.fleet else [])):
        _require_empty(folder)
    workshop = place.state / _WORKSHOP
    try:
        with reading(path) as back_up:
            (workshop / "state").mkdir(parents=True)
            _restore_database(back_up, database_of(workshop / "state", place.database), workshop)
        if place.fleet is not None and not (workshop / "fleet").is_dir():
            raise StorageError(f"back-up {path} holds nothing of an operator's folder: restore it without one")
        os.sync()
        _move(workshop / "state", place.state)
        if place.fleet is not None:
            _move(workshop / "fleet", place.fleet)
        os.sync()
    except OSError as error:
        raise StorageError(f"{place.state} cannot be made of {path}: {error}") from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _require_empty(folder: Path) -> None:
    if folder.exists() and any(child.name != _WORKSHOP for child in folder.iterdir()):
        raise StorageError(f"{folder} is not empty: choose another folder")
    shutil.rmtree(folder / _WORKSHOP, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for child in source.iterdir():
        child.rename(target / child.name)


def _restore_database(back_up: Reader, url: URL, workshop: Path) -> None:
    version = back_up.head.schema
    if version not in versions():
        raise StorageError(f"the back-up has version {version}, of a newer server than this one: install that first")
    with opened(url) as engine, engine.begin() as connection:
        if inspect(connection).get_table_names():
            raise StorageError(f"database {shown_database(url)} is not empty: choose another")
        upgrade(connection, version)
        found = MetaData()
        found.reflect(connection)
        _fill(back_up, connection, found.tables, workshop)
        for table in found.sorted_tables:
            count_on(connection, table)


def _fill(back_up: Reader, connection: Connection, known: Mapping[str, Table], workshop: Path) -> None:
    for member in back_up.members():
        folder = member.name.partition("/")[0]
        if folder == "tables":
            rows = _rows(back_up, member)
            if rows.table not in known:
                raise DamagedError(f"the back-up has rows of a table {rows.table!r}, which there is not")
            put_back(connection, known[rows.table], rows)
        elif folder in ("state", "fleet"):
            back_up.extract(member, workshop)


def _rows(back_up: Reader, member: tarfile.TarInfo) -> TableRows:
    try:
        return msgspec.msgpack.decode(back_up.content(member), type=TableRows)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedError(f"{member.name} in the back-up: {error}") from error

"""Bring a database's tables to this version of the server, by the migrations in `server/migrations`.

Invariant: a database is at one version or the next, never in between: the steps are one transaction, and no two
processes take them at once.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select

from server.database_url import SQLITE, shown_database
from server.errors import StorageError

if TYPE_CHECKING:
    from alembic.config import Config

_FOLDER = Path(__file__).with_name("migrations")
_VERSION = re.compile(r"v(\d{4})_\w+\.py")
_ALEMBIC = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('fisherfleet schema ' || current_schema()))"


def alembic_config(connection: Connection) -> Config:
    """What Alembic's commands are told."""
    from alembic.config import Config  # noqa: PLC0415 - a quarter of a second, which only a new version needs

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("file_template", "v%%(rev)s_%%(slug)s")
    return config


@cache
def versions() -> tuple[str, ...]:
    """All versions that this server knows, the oldest first: their files are `v{version}_{words}.py`."""
    found = (_VERSION.match(path.name) for path in (_FOLDER / "versions").iterdir())
    return tuple(sorted(match[1] for match in found if match is not None))


def schema_version(connection: Connection) -> str | None:
    """The version of a database's tables; None for one that has none.

    Raises `StorageError` where it is not one of this server's.
    """
    if not inspect(connection).has_table(_ALEMBIC.name):
        return None
    found: str | None = connection.execute(select(_ALEMBIC.c.version_num)).scalar_one_or_none()
    if found is not None and found not in versions():
        raise StorageError(
            f"database {shown_database(connection.engine.url)} has version {found}, of a newer server than this one, "
            f"which knows {versions()[-1]} at most: install that again, or restore a back-up made with this one"
        )
    return found


def upgrade(connection: Connection, version: str | None = None) -> None:
    """Bring the tables to a version, the newest if not said, in the connection's transaction, before any other work."""
    version = versions()[-1] if version is None else version
    if schema_version(connection) == version:
        return
    if connection.dialect.name == SQLITE:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(_LOCK)
    if schema_version(connection) != version:
        from alembic import command  # noqa: PLC0415

        command.upgrade(alembic_config(connection), version)

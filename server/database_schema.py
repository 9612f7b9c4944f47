"""Bring a database's tables to this version of the server, by the migrations in `server/migrations`.

Invariant: a database is at one version or the next, never in between: the steps are one transaction, and no two
processes take them at once.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from server.database_url import SQLITE, shown_database
from server.errors import StorageError

_FOLDER = Path(__file__).with_name("migrations")
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('fisherfleet schema ' || current_schema()))"


def alembic_config(connection: Connection | None = None) -> Config:
    """What Alembic's commands are told."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("file_template", "v%%(rev)s_%%(slug)s")
    return config


@cache
def versions() -> tuple[str, ...]:
    """All versions that this server knows, the oldest first."""
    scripts = ScriptDirectory.from_config(alembic_config()).walk_revisions()
    return tuple(script.revision for script in scripts)[::-1]


def schema_version(connection: Connection) -> str | None:
    """The version of a database's tables; None for one that has none.

    Raises `StorageError` where it is not one of this server's.
    """
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in versions():
        raise StorageError(
            f"database {shown_database(connection.engine.url)} has version {found}, of a newer server than this one, "
            f"which knows {versions()[-1]} at most: install that again, or restore a back-up made with this one"
        )
    return found


def upgrade(connection: Connection) -> None:
    """Bring the tables to the newest version, in the connection's transaction; it must not have begun any work."""
    if schema_version(connection) == versions()[-1]:
        return
    if connection.dialect.name == SQLITE:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.exec_driver_sql(_LOCK)
    if schema_version(connection) != versions()[-1]:
        command.upgrade(alembic_config(connection), versions()[-1])

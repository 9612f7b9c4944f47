"""One server at a time on a PostgreSQL, and none before the last transaction of a killed one is over.

PostgreSQL goes on with a commit whose client is gone, so a server that is started again could read what stands a moment
too early. Therefore each connection of a server holds a shared advisory lock, which is let go of when PostgreSQL has
ended the session and its transaction; a server that begins asks once for the exclusive one. Of a machine that is
gone without a word PostgreSQL learns within half a minute. SQLite's transactions end with the process that the state
folder's lock belongs to. The lock is a session's: between server and PostgreSQL must be no pooler that shares sessions.

https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from server.database_url import SQLITE, shown_database
from server.errors import StorageError

PATIENCE_SECONDS = 45.0
_KEY = "hashtext('fisherfleet server ' || current_schema())"
_OTHERS_HOLD_IT = ("55P03", "40P01")
"""A lock that was waited for too long, and two that wait for each other."""
_PER_SESSION = (
    "SET tcp_keepalives_idle TO 10",
    "SET tcp_keepalives_interval TO 5",
    "SET tcp_keepalives_count TO 3",
    f"SELECT pg_advisory_lock_shared({_KEY})",
)


def claim(engine: Engine, patience: float = PATIENCE_SECONDS) -> None:
    """Wait until no other server has a session, up to `patience` seconds; from then on this one does, until `let_go`.

    Raises `StorageError` where another one stays, and any other `SQLAlchemyError`.
    """
    if engine.dialect.name == SQLITE:
        return
    event.listen(engine, "connect", _share)
    engine.dispose()
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout TO {round(1000 * patience)}")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_KEY})")
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) not in _OTHERS_HOLD_IT:
            raise
        shown = shown_database(engine.url)
        raise StorageError(f"database {shown} is in use by another server: stop it or choose another") from error


def let_go(engine: Engine) -> None:
    """End all sessions; those to come are not a server's."""
    if event.contains(engine, "connect", _share):
        event.remove(engine, "connect", _share)
    engine.dispose()


def _share(connection: Any, _record: object) -> None:
    for statement in _PER_SESSION:
        connection.execute(statement)
    connection.commit()

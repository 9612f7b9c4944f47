"""An engine for either database that loses nothing it has committed, and finds out when a connection is lost.

SQLite runs with a write-ahead log and `synchronous=FULL`, PostgreSQL with `synchronous_commit=on`: a commit that
returned survives a power cut (https://www.sqlite.org/pragma.html#pragma_synchronous,
https://www.postgresql.org/docs/current/wal-async-commit.html). A connection to PostgreSQL that was lost while nobody
used it is replaced unseen; one that is lost in use is an error within half a minute, not when TCP gives up.
"""

from __future__ import annotations

from sqlite3 import SQLITE_BUSY, OperationalError
from time import monotonic, sleep
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event

from server.database_url import SQLITE

_BUSY_SECONDS, _AGAIN_SECONDS = 5.0, 0.01
_NUL, _REPLACEMENT = "\0", "\N{REPLACEMENT CHARACTER}"
_LINK = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "fisherfleet",
}


def open_engine(url: URL) -> Engine:
    """An engine on the database at `url`, durable as the module says; connects to nothing yet."""
    if url.get_backend_name() == SQLITE:
        engine = create_engine(url)
        event.listen(engine, "connect", _prepare_sqlite)
    else:
        named = {name: value for name, value in _LINK.items() if name not in url.query}
        engine = create_engine(url, pool_pre_ping=True, connect_args=named)
        event.listen(engine, "connect", _prepare_postgresql)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000:.0f}")
    _use_log(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _use_log(cursor: Any) -> None:
    """Of several that make a database's log at once all but one are told at once that it is locked, and try again."""
    deadline = monotonic() + _BUSY_SECONDS
    while not _log_used(cursor, may_be_locked=monotonic() < deadline):
        sleep(_AGAIN_SECONDS)


def _log_used(cursor: Any, *, may_be_locked: bool) -> bool:
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
    except OperationalError as error:
        if may_be_locked and error.sqlite_errorcode == SQLITE_BUSY:
            return False
        raise
    return True


def _prepare_postgresql(connection: Any, _record: object) -> None:
    connection.execute("SET synchronous_commit TO on")
    connection.commit()
    _replace_nul(connection)


def _replace_nul(connection: Any) -> None:
    """PostgreSQL has no NUL in texts: a device that puts one into its words gets another character for it."""
    from psycopg.types.string import StrDumper  # noqa: PLC0415

    class Dumper(StrDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace(_NUL, _REPLACEMENT))

    connection.adapters.register_dumper(str, Dumper)

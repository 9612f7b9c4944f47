"""Where the database is, as one URL: a SQLite file or PostgreSQL.

    sqlite:////var/lib/fisherfleet/state.sqlite
    postgresql+psycopg://[user[:password]@]host[:port]/database[?sslmode=verify-full]

What the second leaves out comes from where libpq looks for it: PGPASSWORD, PGPASSFILE, PGSSLROOTCERT and their like
(https://www.postgresql.org/docs/current/libpq-envars.html), so that a password need not stand in a file or in the list
of processes. No error and no log shows it.
"""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from wire_protocol.errors import InvalidValueError, require

SQLITE, POSTGRESQL = "sqlite", "postgresql"
_LEGAL = "sqlite:////path/of/a/file or postgresql+psycopg://[user[:password]@]host[:port]/database"
_CREDENTIALS = re.compile(r"//.*@", re.DOTALL)
_DRIVERS = {"sqlite": SQLITE, "sqlite+pysqlite": SQLITE, "postgresql": POSTGRESQL, "postgresql+psycopg": POSTGRESQL}


def sqlite_url(path: Path) -> URL:
    """The URL of a SQLite file."""
    return URL.create(SQLITE, database=str(path))


def parse_database_url(text: str) -> URL:
    """Read a database's URL; raises `InvalidValueError` that names what is wrong."""
    shown = _CREDENTIALS.sub("//***@", text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise InvalidValueError(f"database must be {_LEGAL}, got {shown!r}") from None
    require(url.drivername in _DRIVERS, "database", shown, _LEGAL)
    require(url.database not in (None, "", ":memory:"), "database", shown, _LEGAL)
    return url.set(drivername="postgresql+psycopg") if _DRIVERS[url.drivername] == POSTGRESQL else url


def given_database(text: str | None) -> URL | None:
    """The URL of an option that may be left out; raises as `parse_database_url`."""
    return None if text is None else parse_database_url(text)


def shown_database(url: URL) -> str:
    """A SQLite file's path, or the URL without its password."""
    return str(url.database) if url.get_backend_name() == SQLITE else url.render_as_string(hide_password=True)

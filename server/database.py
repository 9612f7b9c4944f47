"""One database and its transactions, whose every failure is a `StorageError`: SQLite or PostgreSQL, all the same to
those who use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from server.database_engine import open_engine
from server.database_lock import claim, let_go
from server.database_schema import upgrade
from server.database_url import SQLITE, shown_database
from server.errors import StorageError

_LARGEST_INTEGER = 2**63 - 1


class Database:
    """The database at `url`, brought to this version of the server; may be used from any thread.

    Raises `StorageError`, also where the database is of a newer version. `name` is what errors call it.
    """

    def __init__(self, url: URL) -> None:
        self.name = shown_database(url)
        self._url = url
        self._engine = open_engine(url)
        try:
            with self.transaction() as connection:
                upgrade(connection)
        except StorageError:
            self.close()
            raise

    def claim(self) -> None:
        """Be the one server on this database from now on; raises `StorageError` where there is another."""
        with failures(self._url):
            claim(self._engine)

    def close(self) -> None:
        """Close all connections; a later transaction opens one again."""
        let_go(self._engine)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed, and then durable, or undone.

        Where the commit itself fails, or the connection is lost in it, it is not known which; whoever goes on reads
        first what stands.
        """
        with failures(self._url), self._engine.begin() as connection:
            yield connection


@contextmanager
def opened(url: URL) -> Iterator[Engine]:
    """The database at `url` as it is, for who does not serve from it; whatever fails is a `StorageError`."""
    engine = open_engine(url)
    try:
        with failures(url):
            yield engine
    finally:
        engine.dispose()


@contextmanager
def failures(url: URL) -> Iterator[None]:
    """Whatever fails in it is a `StorageError` that names the database."""
    try:
        yield
    except SQLAlchemyError as error:
        lines = str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__]
        raise StorageError(f"database {shown_database(url)}: {lines[0]}") from error


def insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An insert with `on_conflict_do_update` and `excluded`, which the two databases spell alike.

    https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#insert-on-conflict-upsert
    """
    return sqlite.insert(table) if connection.dialect.name == SQLITE else postgresql.insert(table)


def fitting(value: Any) -> Any:
    """An integer that the database can hold; any other value as it is."""
    return min(value, _LARGEST_INTEGER) if isinstance(value, int) and not isinstance(value, bool) else value

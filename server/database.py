"""One SQLite file and its transactions, whose every failure is a `StorageError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import SQLAlchemyError

from server import tables
from server.errors import StorageError

_LARGEST_INTEGER = 2**63 - 1


class Database:
    """The file `path`, with all tables; may be used from any thread. Raises `StorageError` where they are others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = tables.open_engine(path)
        with self.transaction() as connection:
            tables.metadata.create_all(connection)
            self._require_columns(connection)

    def _require_columns(self, connection: Connection) -> None:
        found = inspect(connection)
        for table in tables.metadata.sorted_tables:
            missing = set(table.columns.keys()) - {column["name"] for column in found.get_columns(table.name)}
            if missing:
                raise StorageError(
                    f"database {self._path} was made by another version of the server: its table {table.name} lacks "
                    f"{', '.join(sorted(missing))}; choose another state folder"
                )

    def close(self) -> None:
        """Close all connections; a later transaction opens one again."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed, and then durable, or undone.

        Where the commit itself fails it is not known which; whoever goes on reads first what stands.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise StorageError(f"database {self._path}: {reason}") from error


def fitting(value: Any) -> Any:
    """An integer that SQLite can hold; any other value as it is."""
    return min(value, _LARGEST_INTEGER) if isinstance(value, int) and not isinstance(value, bool) else value

"""Rows of any database as MessagePack, and back into any database: the way from SQLite to PostgreSQL, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, func, select, text

from server import tables
from server.database_url import SQLITE
from server.errors import DamagedError

_ROWS_AT_ONCE = 1000


class TableRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some rows of a table, each in the order of its `columns`: numbers, texts, bytes, and JSON as lists and maps."""

    table: str
    columns: list[str]
    rows: list[list[Any]]


def dump(connection: Connection) -> Iterator[TableRows]:
    """All rows of all tables, some at a time."""
    for table in tables.metadata.sorted_tables:
        order = list(table.primary_key.columns)
        result = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(select(table).order_by(*order))
        for rows in result.partitions():
            yield TableRows(str(table.name), list(map(str, table.columns.keys())), [list(row) for row in rows])


def put_back(connection: Connection, table: Table, content: TableRows) -> None:
    """Insert rows that were dumped; raises `DamagedError` where they are no rows of `table`."""
    unknown = set(content.columns) - set(table.columns.keys())
    if unknown or any(len(row) != len(content.columns) for row in content.rows):
        raise DamagedError(f"the back-up's rows of table {table.name} do not fit it")
    connection.execute(table.insert(), [dict(zip(content.columns, row, strict=True)) for row in content.rows])


def count_on(connection: Connection, table: Table) -> None:
    """Let numbers that the database gives go on after those that were loaded; SQLite does so itself."""
    column = table.autoincrement_column
    if connection.dialect.name == SQLITE or column is None or column.server_default is None:
        return
    newest = connection.execute(select(func.max(column))).scalar_one()
    if newest is not None:
        sequence = text("SELECT setval(pg_get_serial_sequence(:table, :column), :newest)")
        connection.execute(sequence, {"table": table.name, "column": column.name, "newest": newest})

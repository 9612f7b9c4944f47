"""Read a database as it stands at one moment, and do something at just that moment, while a server goes on.

At the moment no process can write, so what files hold then fits what rows say: a server makes files durable before the
rows that speak of them, and deletes files after. The moment is as long as `at_the_moment` takes; reading goes on from
the snapshot that a transaction has (SQLite's write-ahead log, PostgreSQL's SERIALIZABLE).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, select

from server import tables
from server.database_url import SQLITE


@contextmanager
def snapshot(engine: Engine, at_the_moment: Callable[[], None]) -> Iterator[Connection]:
    """A connection that sees the database at the moment at which `at_the_moment` was called."""
    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as reader:
        with engine.connect() as writer:
            _hold_all_writers(writer)
            if engine.dialect.name == SQLITE:
                reader.exec_driver_sql("BEGIN")
            reader.execute(select(tables.runs.c.run).limit(1)).all()
            at_the_moment()
            writer.rollback()
        yield reader


def _hold_all_writers(connection: Connection) -> None:
    if connection.dialect.name == SQLITE:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        names = ", ".join(table.name for table in tables.metadata.sorted_tables)
        connection.exec_driver_sql(f"LOCK TABLE {names} IN SHARE MODE")

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import URL, inspect, text

from server import tables
from server.database import Database
from server.database_engine import open_engine
from server.database_schema import schema_version, versions
from server.errors import StorageError


def test_a_migrated_database_has_the_tables_that_the_code_speaks_of(database_url: URL) -> None:
    """Fails? `python -m server.migrations "what you changed"` writes the migration that is missing."""
    database = Database(database_url)
    with database.transaction() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
        assert schema_version(connection) == versions()[-1]
    database.close()


def test_versions_are_numbered_in_order() -> None:
    assert versions() == tuple(f"{number:04}" for number in range(1, len(versions()) + 1))


def test_a_database_of_a_newer_server_is_refused_and_left_alone(database_url: URL) -> None:
    Database(database_url).close()
    engine = open_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(
        StorageError, match=r"has version 9999, of a newer server than this one, which knows \d+ at most"
    ):
        Database(database_url)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"
    engine.dispose()


def test_a_migration_that_fails_leaves_nothing(database_url: URL) -> None:
    engine = open_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE ix_updates_counted_in (id INTEGER)"))
    with pytest.raises(StorageError, match="ix_updates_counted_in"):
        Database(database_url)
    assert inspect(engine).get_table_names() == ["ix_updates_counted_in"]
    engine.dispose()


def test_of_many_that_begin_at_once_one_makes_the_tables(database_url: URL) -> None:
    count, errors = 4, []
    together = threading.Barrier(count)

    def begin(_number: int) -> None:
        together.wait()
        try:
            Database(database_url).close()
        except StorageError as error:
            errors.append(error)

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(begin, range(count)))
    assert errors == []

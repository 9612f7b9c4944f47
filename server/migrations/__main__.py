"""`python -m server.migrations "A table of tokens"`: write the migration from the newest version to `server.tables`.

It compares the tables of an empty database at the newest version with those that are to be. Read what it wrote: a
column that was renamed looks like one that went and one that came.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from alembic import command

from server.database_engine import open_engine
from server.database_schema import alembic_config, upgrade, versions
from server.database_url import sqlite_url


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m server.migrations", description="Write the next migration.")
    parser.add_argument("message", help="what it changes, in a few words")
    message = parser.parse_args().message
    with tempfile.TemporaryDirectory() as folder:
        engine = open_engine(sqlite_url(Path(folder) / "database.sqlite"))
        with engine.begin() as connection:
            if versions():
                upgrade(connection)
            number = f"{len(versions()) + 1:04}"
            command.revision(alembic_config(connection), message, autogenerate=True, rev_id=number)
        engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())

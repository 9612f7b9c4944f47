"""`fisherfleet restore`: a state folder and a database of a back-up."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from server.back_up.restore import Place, restore
from server.database_url import given_database
from wire_protocol.errors import FisherfleetError

_EXIT_MISTAKE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = command_parser().parse_args(argv)
    try:
        database = given_database(arguments.database)
        restore(arguments.file, Place(arguments.state, database, arguments.fleet))
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet restore: {error}\n")
        return _EXIT_MISTAKE
    sys.stdout.write(f"{arguments.state} is as it was; serve it with the same options\n")
    return 0


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="fisherfleet restore",
        description="Make a state folder and a database of a back-up: SQLite or PostgreSQL, whatever it was made of.",
    )
    parser.add_argument("file", type=Path, metavar="FILE.tar.zst", help="made by `fisherfleet backup`")
    parser.add_argument("--state", type=Path, required=True, help="an empty folder, made when missing")
    parser.add_argument("--database", metavar="URL", help="an empty database; else a SQLite file in the folder")
    parser.add_argument("--fleet", type=Path, help="an empty folder for what the back-up has of the operator's")
    return parser


if __name__ == "__main__":
    sys.exit(main())

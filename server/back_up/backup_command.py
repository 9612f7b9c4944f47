"""`fisherfleet backup`: all that a server knows in one file, while it works or not."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from server.back_up.back_up import Subject, back_up
from server.database_url import given_database
from wire_protocol.errors import FisherfleetError

_EXIT_MISTAKE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = command_parser().parse_args(argv)
    try:
        database = given_database(arguments.database)
        subject = Subject(arguments.state, database, arguments.fleet, arguments.with_keys)
        back_up(subject, arguments.out, time.time())
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet backup: {error}\n")
        return _EXIT_MISTAKE
    sys.stdout.write(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB\n")
    return 0


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="fisherfleet backup", description="Put all that a server knows into one file. It may go on working."
    )
    parser.add_argument("--state", type=Path, required=True, help="the server's state folder")
    parser.add_argument("--database", metavar="URL", help="as for `fisherfleet serve`")
    parser.add_argument("--fleet", type=Path, help="the operator's folder: its registry of devices is put in, too")
    parser.add_argument(
        "--with-keys", action="store_true", help="all of it, with the keys that sign plans and open updates"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.tar.zst", help="the file to make")
    return parser


if __name__ == "__main__":
    sys.exit(main())

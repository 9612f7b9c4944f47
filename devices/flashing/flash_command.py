"""`fisherfleet devices flash WAY ...`: from a device's folder to what its board is started with."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import Any, NamedTuple

from wire_protocol.errors import FisherfleetError

EXIT_REFUSED = 2


class Way(NamedTuple):
    """The module whose `add_arguments(parser)` and `run(arguments)` are the command, and what it does in one line.

    `run` returns the words to print at the end and raises `FisherfleetError`.
    """

    module: str
    summary: str


WAYS = {
    "first-boot": Way("devices.flashing.first_boot_command", "prepare a card with stock Raspberry Pi OS"),
    "image": Way("devices.flashing.card.command", "make the complete card of a device for a Raspberry Pi 3 or 4"),
    "package": Way("devices.flashing.debian_package", "make the client's .deb for a system"),
    "bundle": Way("devices.flashing.offline_bundle", "make one file that installs a device where there is no network"),
}


def add_flash(commands: Any) -> None:
    """Add the command to those of `fisherfleet devices`."""
    text = "put the client and a device's own files on a board"
    flash = commands.add_parser("flash", help=text, description=f"{text[0].upper()}{text[1:]}.")
    ways = flash.add_subparsers(required=True, metavar="WAY")
    for name, way in WAYS.items():
        text = way.summary
        parser = ways.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        import_module(way.module).add_arguments(parser)
        parser.set_defaults(run=flash_board, way=name)


def flash_board(arguments: argparse.Namespace) -> int:
    """Run a way; returns the exit status: 0, or 2 for a mistake that a line on stderr explains."""
    try:
        words: str = import_module(WAYS[arguments.way].module).run(arguments)
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet devices flash {arguments.way}: {error}\n")
        return EXIT_REFUSED
    sys.stdout.write(f"{words}\n")
    return 0

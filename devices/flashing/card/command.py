"""`fisherfleet devices flash image`: the complete card of a device with a Raspberry Pi 3 or 4, as one file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from devices.flashing.caches import cache_folder
from devices.flashing.card.base import ARCHIVE, base_image
from devices.flashing.card.write import boot_partition, write_card
from devices.flashing.installation_options import add_installation, read_installation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_installation(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the card's image, as in card.img")
    parser.add_argument(
        "--archive",
        default=ARCHIVE,
        metavar="URL",
        help="below which debian and debian-security are (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> str:
    """Make the card; returns what to do with it."""
    installation, cache = read_installation(arguments), cache_folder()
    files = boot_partition(installation)

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    write_card(base_image(installation.system, cache, say, arguments.archive), files, arguments.out)
    return (
        f"{arguments.out}: write it to a card, as with Raspberry Pi Imager (Use custom), and start the board with it.\n"
        "It holds the device's keys, so remove it then."
    )

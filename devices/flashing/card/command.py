"""`fisherfleet devices flash image`: the complete card of a device with a Raspberry Pi 3 or 4, as one file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from devices.errors import FlashError
from devices.flashing.caches import cache_folder
from devices.flashing.card.base import ARCHIVE, base_image
from devices.flashing.card.write import boot_partition, write_card
from devices.flashing.card_writing import add_writing, require_target, write_to_card
from devices.flashing.installation_options import add_installation, read_installation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_installation(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the card's image, as in card.img (with --write it may be left out)"
    )
    add_writing(parser)
    parser.add_argument(
        "--archive",
        default=ARCHIVE,
        metavar="URL",
        help="below which debian and debian-security are (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> str:
    """Make the card; returns what to do with it."""
    installation, cache = read_installation(arguments), cache_folder()
    if arguments.out is None and arguments.write is None:
        raise FlashError("say where to: --out FILE, --write DEVICE or both")
    require_target(arguments)
    files = boot_partition(installation)

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    base = base_image(installation.system, cache, say, arguments.archive)
    with TemporaryDirectory() as folder:
        out = arguments.out or Path(folder) / f"{installation.hostname}.img"
        write_card(base, files, out)
        if arguments.write is not None:
            return write_to_card(out, arguments)
    return (
        f"{arguments.out}: write it to a card, as with Raspberry Pi Imager (Use custom), and start the board with it.\n"
        "It holds the device's keys, so remove it then."
    )

"""`fisherfleet devices flash image`: the complete card of a device with a Raspberry Pi 3 or 4, as one file."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from devices.errors import FlashError
from devices.flashing.caches import cache_folder
from devices.flashing.card.base import ARCHIVE, base_image
from devices.flashing.card.layout import BOOT_MIB, MIB
from devices.flashing.card.programs import require_programs
from devices.flashing.card.write import boot_partition, write_card
from devices.flashing.card_writing import add_writing, require_target, write_to_card
from devices.flashing.installation_options import add_installation, read_installation, say_progress

_SECRET = "It holds the device's keys, so remove it then."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_installation(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the card's image, as in card.img (with --write it may be left out)"
    )
    add_writing(parser)
    parser.add_argument(
        "--base",
        type=Path,
        metavar="FILE",
        help="begin with this image, as rpi-image-gen made it for a Raspberry Pi 5 (default: Debian, made here once)",
    )
    parser.add_argument(
        "--archive",
        default=ARCHIVE,
        metavar="URL",
        help="below which debian and debian-security are (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> str:
    """Make the card; returns what to do with it."""
    installation = read_installation(arguments)
    if arguments.out is None and arguments.write is None:
        raise FlashError("say where to: --out FILE, --write DEVICE or both")
    files = boot_partition(installation)
    require_target(arguments, BOOT_MIB * MIB)
    require_programs(("mcopy",))
    base = arguments.base or base_image(installation.system, cache_folder(), say_progress, arguments.archive)
    with TemporaryDirectory() as folder:
        out = arguments.out or Path(folder) / f"{installation.hostname}.img"
        write_card(base, files, out)
        if arguments.write is not None:
            return write_to_card(out, arguments)
    return f"{out}: write it to a card, as with Raspberry Pi Imager, and start the board with it. {_SECRET}"

"""The options with which an image is also written to a card, and how that is asked, shown and checked."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from devices.flashing.block_device import (
    find_disk,
    require_card,
    require_said_twice,
    reread_partitions,
    verify_image,
    write_image,
)

Ask = Callable[[str], str]


def add_writing(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command that makes an image."""
    parser.add_argument("--write", type=Path, metavar="DEVICE", help="write it to this card too, as /dev/sdb")
    parser.add_argument(
        "--yes-erase",
        action="append",
        default=[],
        metavar="DEVICE",
        help="for scripts: say the card's device here, twice, and nothing is asked",
    )
    parser.add_argument(
        "--any-disk", action="store_true", help="write to a fixed disk, or one of more than 512 GB, if that is meant"
    )


def require_target(arguments: argparse.Namespace, image_size: int) -> None:
    """Raise `FlashError` where `--write` names what must not be written to; before the image is made."""
    if arguments.write is not None:
        require_card(find_disk(arguments.write), image_size, any_disk=arguments.any_disk)


def write_to_card(image: Path, arguments: argparse.Namespace, ask: Ask = input) -> str:
    """Write the image to the card of `--write` and read it back; what to say. Raises `FlashError`."""
    size = image.stat().st_size
    disk = find_disk(arguments.write)
    require_card(disk, size, any_disk=arguments.any_disk)
    said = tuple(arguments.yes_erase) or tuple(
        ask(f"All that is on {disk} will be lost. {words}: ").strip()
        for words in (f"Type {disk.path} to go on", "And once more")
    )
    require_said_twice(disk, said)
    with _bars() as bars:
        writing, reading = bars.add_task("writing", total=size), bars.add_task("reading back", total=size)
        digest = write_image(image, disk.path, lambda count: bars.advance(writing, count))
        verify_image(size, digest, disk.path, lambda count: bars.advance(reading, count))
    reread_partitions(disk.path)
    return f"{disk} holds {image.name}, read back and right: it can be taken out."


def _bars() -> Progress:
    columns = (TextColumn("{task.description:12}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))

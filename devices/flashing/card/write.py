"""A device's own card: the base image, and on its boot partition what makes the board this device at its first start.

On the boot partition, which keeps no owners and no modes, only until then: `first-boot.sh` and `take-settings` move all
of it to where it belongs, and wipe it there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from devices.errors import FlashError
from devices.flashing.card.layout import SECTOR_BYTES, boot_offset
from devices.flashing.card.programs import run_program
from devices.flashing.card.settings import SETTINGS_FOLDER, settings_files
from devices.flashing.device_folder import PRIVATE_FILE
from devices.flashing.installation import Installation

FIRST_BOOT = Path(__file__).parents[1] / "first-boot.sh"
DEVICE_FOLDER = "fisherfleet"


def boot_partition(installation: Installation) -> dict[str, bytes]:
    """Contents of the files that make a card this device's, by their names with slashes; raises `FlashError`."""
    files = {f"{SETTINGS_FOLDER}/{name}": text.encode() for name, text in settings_files(installation).items()}
    files[f"{DEVICE_FOLDER}/{FIRST_BOOT.name}"] = FIRST_BOOT.read_bytes()
    for file in installation.files:
        files[f"{DEVICE_FOLDER}/device/{file.name}"] = file.source.read_bytes()
    return files


def write_card(base: Path, files: Mapping[str, bytes], out: Path) -> None:
    """Make `out` the card with these files on its boot partition, readable by this user alone.

    `base` is an image that `base_image` made, or one whose board has the same services. Raises `FlashError` and leaves
    no rest.
    """
    offset = _boot_offset(base)
    with _replacing(out) as card, TemporaryDirectory() as folder:
        run_program(["cp", "--sparse=always", "--no-preserve=mode", str(base), str(card)], f"the card {out}")
        staged = Path(folder)
        for name, content in files.items():
            path = staged / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        # The drive is the partition that begins there; Q: end at what does not fit, in place of asking.
        command = ["mcopy", "-s", "-Q", "-i", f"{card}@@{offset}", *map(str, sorted(staged.iterdir())), "::/"]
        run_program(command, f"the boot partition of {out}")


def _boot_offset(base: Path) -> int:
    try:
        with base.open("rb") as image:
            offset = boot_offset(image.read(SECTOR_BYTES))
    except OSError as error:
        raise FlashError(f"{base} cannot be read: {error}") from error
    if offset is None:
        raise FlashError(f"{base} is no card's image: it has no partition table (MBR) that begins with FAT32")
    return offset


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """An empty private file that takes the place of `out` at the end."""
    fresh = out.with_name(f".{out.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE))
        yield fresh
        fresh.replace(out)
    except OSError as error:
        raise FlashError(f"{out} cannot be written: {error}") from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)

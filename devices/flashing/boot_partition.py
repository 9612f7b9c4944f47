"""The boot partition of stock Raspberry Pi OS on a card, mounted here: known by its files, written to, and put back.

What is replaced is kept in `fisherfleet/before/` until the first start, so that writing again begins from what the
system came with, and `restore` gives it back. Secrets are overwritten before they are removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from devices.errors import FlashError
from devices.flashing.cloud_init import NETWORK_CONFIG, USER_DATA
from devices.flashing.device_folder import PRIVATE_FILE, PRIVATE_FOLDER
from devices.flashing.first_boot_files import (
    CMDLINE,
    META_DATA,
    OURS,
    FirstBoot,
    is_untouched,
    kernel_words,
    own_files,
    stages,
    system_files,
)
from devices.flashing.firstrun import FIRSTRUN
from devices.flashing.systems import System
from wire_protocol.durable_files import sync_folder

ISSUE, ISSUE_BEGINS = "issue.txt", "Raspberry Pi"
BEFORE = "before"
_WHOLE, _ABSENT = "whole", "no-"
"""In it: all that is to be replaced is kept; and how names of files begin that were not there."""
_OF_EVERY_SYSTEM = (CMDLINE, "config.txt", ISSUE)
_OF_32_BITS = "kernel7.img"
_OF_64_BITS = "kernel8.img"
_OF_CLOUD_INIT = (META_DATA, USER_DATA)
_REPLACED = (USER_DATA, META_DATA, NETWORK_CONFIG, FIRSTRUN, CMDLINE)


def require_boot_partition(folder: Path, system: System) -> None:
    """Raise `FlashError` where `folder` is not the boot partition of 64-bit Raspberry Pi OS of this release."""
    if not folder.is_dir():
        raise FlashError(f"{folder} is not there, expected where a card's boot partition is mounted")
    for name in (*_OF_EVERY_SYSTEM, _OF_64_BITS):
        if not (folder / name).is_file():
            raise FlashError(f"{folder} is not the boot partition of Raspberry Pi OS: it has no {name}")
    if not (folder / ISSUE).read_text(errors="replace").startswith(ISSUE_BEGINS):
        raise FlashError(f"{folder} is not the boot partition of Raspberry Pi OS: {ISSUE} names another system")
    if (folder / _OF_32_BITS).exists():
        raise FlashError(f"{folder} is of the 32-bit Raspberry Pi OS; the client needs the 64-bit one")
    missing = [name for name in _OF_CLOUD_INIT if not (folder / name).exists()]
    if system.name == "trixie" and missing:
        raise FlashError(
            f"{folder} has no {missing[0]}, which Raspberry Pi OS trixie has from November 2025 on; is it bookworm?"
        )
    if system.name == "bookworm" and not missing:
        raise FlashError(f"{folder} has {META_DATA}: it is of Raspberry Pi OS trixie, not bookworm")


def write_first_boot(folder: Path, boot: FirstBoot, package: Path) -> None:
    """Make the card of this mounted partition the device's; what an earlier call wrote is replaced.

    `package` is the client's .deb for the system. Raises `FlashError`, before anything is written where the card was
    prepared in another way.
    """
    require_boot_partition(folder, boot.installation.system)
    with _plainly(folder):
        restore(folder)
        texts = system_files(boot)
        for name in texts:
            path = folder / name
            if path.exists() and not is_untouched(name, path.read_text(errors="replace")):
                raise FlashError(
                    f"{path} has settings already, as of Raspberry Pi Imager; write the card again without them"
                )
        texts[CMDLINE] = kernel_words((folder / CMDLINE).read_text(), boot)
        for name in texts:
            _keep(folder, name)
        _write(folder / OURS / BEFORE / _WHOLE, b"")
        _write_all(folder / OURS, own_files(boot, package))
        _write_all(folder, {name: text.encode() for name, text in texts.items()})


def restore(folder: Path) -> bool:
    """Put back what was there before, and take away what is ours; whether there was something of ours."""
    ours = folder / OURS
    if not ours.exists():
        return False
    with _plainly(folder):
        kept = ours / BEFORE
        for name in _REPLACED if (kept / _WHOLE).exists() else ():
            if (kept / name).exists():
                _write(folder / name, (kept / name).read_bytes())
            elif (kept / f"{_ABSENT}{name}").exists():
                _wipe(folder / name)
        for path in sorted(ours.rglob("*"), reverse=True):
            if path.is_file() and BEFORE not in path.relative_to(ours).parts:
                _wipe(path)
        shutil.rmtree(ours)
        sync_folder(folder)
    return True


def write_folder(out: Path, boot: FirstBoot, package: Path) -> None:
    """Make a folder with the same files, for a tool that writes cards; what an earlier call made is replaced.

    Raises `FlashError`.
    """
    if out.exists() and any(out.iterdir()) and not (out / OURS).is_dir():
        raise FlashError(f"{out} must be a new folder, or one that this command made")
    with _plainly(out):
        shutil.rmtree(out / OURS, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
        _write_all(out / OURS, own_files(boot, package))
        _write_all(out, {name: text.encode() for name, text in system_files(boot).items()})


def _keep(folder: Path, name: str) -> None:
    kept = folder / OURS / BEFORE
    kept.mkdir(parents=True, exist_ok=True)
    if (folder / name).exists():
        _write(kept / name, (folder / name).read_bytes())
    else:
        _write(kept / f"{_ABSENT}{name}", b"")


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    for name in stages(files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, files[name])


def _write(path: Path, content: bytes) -> None:
    """Replace a file in one step: FAT keeps no modes, elsewhere it is its owner's alone."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def _wipe(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


@contextmanager
def _plainly(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise FlashError(f"{folder} cannot be written: {error}") from error

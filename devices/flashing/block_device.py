"""Writing an image to a card: a block device that is surely the one meant, written whole and read back.

A disk in use, a partition, a disk that is no card (fixed, or larger than 512 GB) are refused. The first MiB, which has
the partition table, is written last: a card whose writing was cut short has none, so that no board starts half of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from devices.errors import FlashError

LARGEST = 512 * 10**9
BLOCK = 2**20
_FLUSH_BUFFERS = 0x1261  # BLKFLSBUF of linux/fs.h: what is read from here on comes from the device
_READ_TABLE = 0x125F  # BLKRRPART: the kernel looks at the new partition table
_COLUMNS = "PATH,SIZE,TYPE,RM,HOTPLUG,RO,TRAN,MODEL,MOUNTPOINTS"

Progress = Callable[[int], None]
"""Called with the number of bytes that were written or read since the last call."""


@dataclass(frozen=True)
class Disk:
    """What lsblk says of a block device: bytes, its kind (`disk`, `part`, `loop`, ...), where any of it is in use."""

    path: Path
    size: int
    kind: str
    removable: bool
    read_only: bool
    model: str
    used_at: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.path} ({', '.join(filter(None, (self.model, f'{self.size / 1e9:.1f} GB')))})"


def find_disk(path: Path) -> Disk:
    """The device of this path; raises `FlashError`."""
    try:
        is_device = stat.S_ISBLK(path.stat().st_mode)
    except OSError as error:
        raise FlashError(f"{path} cannot be used: {error.strerror}") from error
    if not is_device:
        raise FlashError(f"{path} is not a block device, expected a whole disk as /dev/sdb or /dev/mmcblk0")
    command = ["lsblk", "--json", "--bytes", "--paths", "--output", _COLUMNS, str(path.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FlashError(f"lsblk knows nothing of {path}: {done.stderr.strip()}")
    return disk_of(json.loads(done.stdout)["blockdevices"][0])


def disk_of(described: dict[str, Any]) -> Disk:
    """A device as `lsblk --json` describes it, what is built on it (partitions, RAID, encryption) as children."""
    return Disk(
        path=Path(described["path"]),
        size=int(described["size"]),
        kind=described["type"],
        removable=bool(described["rm"] or described["hotplug"] or described["tran"] in ("usb", "mmc")),
        read_only=bool(described["ro"]),
        model=(described["model"] or "").strip(),
        used_at=tuple(_used_at(described)),
    )


def require_card(disk: Disk, image_size: int, *, any_disk: bool = False) -> None:
    """Raise `FlashError` where an image of so many bytes must not be written there.

    `any_disk` is for those who know that a fixed disk, or one of more than 512 GB, is meant; one in use never is.
    """
    if disk.kind not in ("disk", "loop"):
        raise FlashError(f"{disk} is a {disk.kind}, expected a whole disk as /dev/sdb or /dev/mmcblk0")
    if disk.used_at:
        raise FlashError(f"{disk} is in use at {', '.join(disk.used_at)}; unmount it first, if it is the card")
    if disk.read_only:
        raise FlashError(f"{disk} is read-only; some cards and readers have a switch for it")
    if disk.size < image_size:
        raise FlashError(f"{disk} is too small: the image has {image_size / 1e9:.1f} GB")
    if disk.size > LARGEST and not any_disk:
        raise FlashError(f"{disk} is larger than any card, at most {LARGEST / 1e9:.0f} GB; --any-disk if it is meant")
    if not disk.removable and not any_disk:
        raise FlashError(f"{disk} is a fixed disk, expected a card; --any-disk if it is meant")


def require_said_twice(disk: Disk, said: tuple[str, ...]) -> None:
    """Raise `FlashError` unless the device's path was said two times, and nothing else."""
    if len(said) != 2 or any(word != str(disk.path) for word in said):
        raise FlashError(f"all that is on {disk} would be lost; nothing was written, as {disk.path} was not said twice")


def write_image(image: Path, device: Path, progress: Progress) -> str:
    """Write all of `image` to the device and wait until it is there; returns the SHA-256 of the image.

    Raises `FlashError` that says how far it came; the device then has no partition table.
    """
    digest = hashlib.sha256()
    with image.open("rb") as source, _failures(device, "written") as at, _alone(device) as target:
        first = source.read(BLOCK)
        digest.update(first)
        _put(target, bytes(len(first)))
        os.fsync(target.fileno())
        at[0] = len(first)
        while block := source.read(BLOCK):
            digest.update(block)
            _put(target, block)
            at[0] += len(block)
            progress(len(block))
        os.fsync(target.fileno())
        target.seek(0)
        _put(target, first)
        os.fsync(target.fileno())
        progress(len(first))
    return digest.hexdigest()


def verify_image(size: int, expected: str, device: Path, progress: Progress) -> None:
    """Read the first `size` bytes back from the device itself; raises `FlashError` where they are not as written."""
    digest, left = hashlib.sha256(), size
    with _failures(device, "read back") as at, device.open("rb", buffering=0) as source:
        _forget(source)
        while left:
            block = source.read(min(BLOCK, left))
            if not block:
                raise OSError(0, f"it ends {left} bytes too early")
            digest.update(block)
            left -= len(block)
            at[0] += len(block)
            progress(len(block))
    if digest.hexdigest() != expected:
        raise FlashError(
            f"{device} does not hold what was written to it: the card is broken or not as large as it says"
        )


def reread_partitions(device: Path) -> None:
    """Let the kernel see the new partitions, where it can."""
    with device.open("rb", buffering=0) as source:
        try:
            fcntl.ioctl(source, _READ_TABLE)
        except OSError:
            return


def _used_at(described: dict[str, Any]) -> Iterator[str]:
    yield from (place for place in described.get("mountpoints") or () if place)
    for child in described.get("children") or ():
        yield from _used_at(child)
        if child["type"] not in ("part", "disk"):
            yield child["path"]


def _alone(device: Path) -> BinaryIO:
    """Open for writing; fails where the kernel has it in use, whatever lsblk said before."""
    exclusive = os.O_EXCL if stat.S_ISBLK(device.stat().st_mode) else 0
    return open(device, "r+b", buffering=0, opener=lambda path, flags: os.open(path, flags | exclusive))


def _put(target: BinaryIO, block: bytes) -> None:
    view = memoryview(block)
    while view:
        written = target.write(view)
        if not written:
            raise OSError(0, "it takes nothing more")
        view = view[written:]


def _forget(source: BinaryIO) -> None:
    """Drop what the kernel remembers of the device, so that reading is from the device."""
    if stat.S_ISBLK(os.fstat(source.fileno()).st_mode):
        fcntl.ioctl(source, _FLUSH_BUFFERS)
    os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _failures(device: Path, done: str) -> Iterator[list[int]]:
    at = [0]
    try:
        yield at
    except OSError as error:
        raise FlashError(f"{device} cannot be {done} beyond {at[0] / 1e6:.1f} MB: {error.strerror}") from error

"""Files of a fleet folder: written durably and in one step, private ones readable by their owner alone.

One command at a time changes a fleet folder: `locked` waits for the one before.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.errors import ProvisioningError
from wire_protocol.durable_files import sync_folder

PRIVATE, PUBLIC = 0o600, 0o644
_PRIVATE_FOLDER = 0o700
_LOCK_NAME = ".lock"


def write_file(path: Path, content: bytes, *, mode: int = PUBLIC, durably: bool = True) -> bool:
    """Replace a file's content; False where it was that already. It has `mode` from its first byte on.

    Without `durably` it is whole or not there for readers, but a power cut may still take it: see `sync_tree`.
    """
    try:
        if path.exists() and path.read_bytes() == content:
            path.chmod(mode)
            return False
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask is
            file.write(content)
            if durably:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(path)
        if durably:
            sync_folder(path.parent)
    except OSError as error:
        raise ProvisioningError(f"{path} cannot be written ({error.strerror})") from error
    return True


def make_folder(path: Path, *, private: bool = False) -> Path:
    """Make a folder and those above it, where missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if private:
            path.chmod(_PRIVATE_FOLDER)
    except OSError as error:
        raise ProvisioningError(f"the folder {path} cannot be made ({error.strerror})") from error
    return path


def sync_tree(folder: Path) -> None:
    """Make all files of a folder and of those below durable; many at once cost little more than one."""
    for place, _, names in os.walk(folder):
        for name in names:
            with Path(place, name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(place))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made when missing, against other commands."""
    make_folder(folder)
    try:
        file = (folder / _LOCK_NAME).open("ab")
    except OSError as error:
        raise ProvisioningError(f"{folder} cannot be written ({error.strerror})") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

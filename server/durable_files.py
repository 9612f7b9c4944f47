"""Write a file so that after a power cut it is there whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from server.errors import StorageError


def write_durably(path: Path, content: bytes) -> None:
    """Write to a temporary name, sync, rename, sync the folder (made when missing); raises `StorageError`."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror})") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Write a file so that after a power cut it is there whole, or not at all; and the folders that it needs."""

from __future__ import annotations

import os
from pathlib import Path

from server.errors import StorageError
from wire_protocol.durable_files import sync_folder


def write_durably(path: Path, content: bytes) -> None:
    """Write to a temporary name, sync, rename, sync the folder (made when missing); raises `StorageError`."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        make_folder(path.parent)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror})") from error


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents, each durable in its own parent."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)

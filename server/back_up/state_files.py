"""Which files of a state folder a back-up holds, and how they are held still while a server goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from server.state_lock import LOCK_NAME
from server.storage import DATABASE_NAME

LEFT_OUT = frozenset({LOCK_NAME, "partial", "courier", *(DATABASE_NAME + end for end in ("", "-wal", "-shm"))})
"""The database, which is read otherwise, and what is made again: uploads under way, and files sealed for one device."""


def hold_still(state: Path, folder: Path) -> None:
    """Give the state's files another name in `folder`: a server only renames files over others, appends and deletes.

    Where the file system has no hard links they are copied. What begins with a dot is being written.
    """
    for path in _files(state):
        held = folder / path.relative_to(state)
        held.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            try:
                os.link(path, held)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copy2(path, held)


def _files(state: Path) -> Iterator[Path]:
    for path in sorted(state.rglob("*")):
        parts = path.relative_to(state).parts
        if parts[0] not in LEFT_OUT and not any(part.startswith(".") for part in parts) and path.is_file():
            yield path

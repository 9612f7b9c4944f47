"""One server at a time on a state folder: an advisory lock (flock) on `state/lock`, gone with the process."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from server.errors import StorageError

LOCK_NAME = "lock"


class StateLock:
    """Held from construction until `release`; raises `StorageError` when another process holds it."""

    def __init__(self, state: Path) -> None:
        path = state / LOCK_NAME
        try:
            state.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+")
        except OSError as error:
            raise StorageError(f"state folder {state} cannot be used ({error.strerror})") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise StorageError(
                f"state folder {state} is in use by another server (process {holder}): stop it or choose another"
            ) from error
        with suppress(OSError):  # on a full disk the lock still holds, only without a name
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n")
            self._file.flush()

    def release(self) -> None:
        """Let another server have the folder."""
        self._file.close()

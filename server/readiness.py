"""Whether the service can do its work now: what must hold for rounds to go on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.errors import StorageError
from server.storage import Store

logger = logging.getLogger(__name__)

LEAST_FREE_BYTES = 256 * 2**20
"""Of disk, below which a round may come to a stand."""


@dataclass(frozen=True)
class Readiness:
    """For each part "ok" or what is wrong, in words that anyone may read."""

    database: str
    broker: str
    disk: str

    @property
    def ready(self) -> bool:
        """Whether all is well."""
        return {self.database, self.broker, self.disk} == {"ok"}


def readiness(
    store: Store, broker_connected: bool, free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
) -> Readiness:
    """Look; blocking, for the time of one transaction."""
    return Readiness(_database(store), "ok" if broker_connected else "disconnected", _disk(store, free_bytes))


def _database(store: Store) -> str:
    try:
        store.require_writable()
    except StorageError as error:
        logger.warning("not ready: %s", error)
        return "takes no writes"
    return "ok"


def _disk(store: Store, free_bytes: Callable[[Path], int]) -> str:
    try:
        free = free_bytes(store.folder)
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if free < LEAST_FREE_BYTES:
        return f"{free / 2**20:.0f} MB left, expected at least {LEAST_FREE_BYTES / 2**20:.0f}"
    return "ok"

"""Where a run stands when a process starts: fresh from its bundle, or after its last closed round."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import msgspec
from numpy.typing import NDArray

from server.bundle import Bundle
from server.config import RunConfig
from server.model_files import ModelFiles
from server.records import RunRecord
from server.storage import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """`version` counts the rounds applied to `parameters` (float32, full); `next_round` was never opened before."""

    next_round: int
    closed: int
    version: int
    parameters: dict[str, NDArray[Any]]


def resume(store: Store, models: ModelFiles, bundle: Bundle, config: RunConfig, now: float) -> Standing:
    """Begin the run or go on with it; a round left open is abandoned, see `storage`. `now` is seconds since 1970.

    Raises `StorageError` when the run belongs to another bundle and `BundleError` when its last model is lost.
    """
    store.begin_run(RunRecord(config.run, bundle.id, now, msgspec.to_builtins(config)))
    store.forget_presence()
    for number in store.abandon_open_rounds(config.run):
        logger.warning("run %s: round %d was open when the server stopped; it is abandoned", config.run, number)
    closed = store.rounds(config.run)
    version = closed[-1].model_version if closed else 0
    parameters = models.load_version(version, bundle.layout) if closed else dict(bundle.weights)
    return Standing(store.last_round(config.run) + 1, len(closed), version, parameters)

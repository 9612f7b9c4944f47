"""What the HTTP interface reads from, and whom it gives orders to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from server.control import Control
from server.errors import UnknownRunError
from server.fleet.fleet_folder import FleetFolder
from server.records import RunRecord
from server.registry import Registry
from server.run_files import RunFiles
from server.shelf import Shelf
from server.storage import Store
from server.traffic import Traffic


@dataclass(frozen=True)
class Sources:
    """`broker_connected` tells whether the link to the broker is up, `broker` is its URL as the server reaches it,
    without a password. `steady` gives seconds and never goes back; `metrics` are what Prometheus reads.
    `offers_changed` is told when devices are to be offered other releases or models.
    """

    store: Store
    shelf: Shelf
    traffic: Traffic
    broker_connected: Callable[[], bool]
    control: Control
    registry: Registry
    files: RunFiles
    fleet: FleetFolder
    broker: str
    steady: Callable[[], float]
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    offers_changed: Callable[[], None] = lambda: None

    def require_run(self, run: str) -> RunRecord:
        """The run of this name; raises `UnknownRunError`."""
        record = self.store.run(run)
        if record is None:
            raise UnknownRunError(f"there is no run {run!r}; GET /api/v1/runs lists those there are")
        return record

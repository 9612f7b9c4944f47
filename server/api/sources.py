"""What the HTTP interface reads from, and whom it gives orders to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from server.control import Control
from server.shelf import Shelf
from server.storage import Store
from server.traffic import Traffic


@dataclass(frozen=True)
class Sources:
    """`broker_connected` tells whether the link to the broker is up; `metrics` are what Prometheus reads."""

    store: Store
    shelf: Shelf
    traffic: Traffic
    broker_connected: Callable[[], bool]
    control: Control
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)

"""What the HTTP interface reads from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from server.bundle import Bundle
from server.model_files import ModelFiles
from server.storage import Store
from server.traffic import Traffic


@dataclass(frozen=True)
class Sources:
    """`broker_connected` tells whether the link to the broker is up; `metrics` are what Prometheus reads."""

    store: Store
    bundle: Bundle
    models: ModelFiles
    traffic: Traffic
    broker_connected: Callable[[], bool]
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)

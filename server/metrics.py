"""What Prometheus reads (https://prometheus.io/docs/practices/naming/): counters of what happened since the process
started, and levels asked for at each scrape. No label names a device, so there are as many series as runs and causes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from server.alerts import AlertKind
from server.records import FleetHealth, RoundRecord
from server.traffic import Bytes

_ROUND_SECONDS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)


@dataclass(frozen=True)
class Levels:
    """How things are now; `uplink_bytes` are under way or waiting to be opened, of `uplink_budget`."""

    inbox_items: int
    uplink_bytes: int
    uplink_budget: int
    devices_online: int
    devices_quarantined: int
    broker_connected: bool
    traffic: Bytes
    health: FleetHealth


class Metrics:
    """Everything is kept in `registry`. Any thread may use it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self._accepted = self._counter("updates_accepted", "Updates counted; late ones are of earlier rounds", "late")
        self._refused = self._counter("updates_refused", "Updates refused, or left out as outliers", "cause")
        self._rounds = self._counter("rounds", "Rounds closed or given up", "outcome")
        self._alerts = self._counter("alerts", "Alerts raised", "kind")
        self._seconds = Histogram(
            "fisherfleet_round_seconds",
            "From a round's opening to its close",
            ["run"],
            buckets=_ROUND_SECONDS,
            registry=registry,
        )
        self._active = self._gauge("alert_active", "1 while the alert stands", "kind")
        self._accuracy = self._gauge("accuracy", "Of the newest model on held-out examples, 0 to 1")
        self._loss = self._gauge("loss", "Of the newest model on held-out examples")
        self._version = self._gauge("model_version", "The newest model's")
        self._planned = self._gauge("epsilon_planned", "Of a device that takes part in all rounds, private runs only")
        self._spent = self._gauge("epsilon_spent", "Of a device that took part in all rounds so far, private runs only")

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"fisherfleet_{name}", text, ["run", label], registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"fisherfleet_{name}", text, ["run", *labels], registry=self.registry)

    def ask(self, levels: Callable[[], Levels]) -> None:
        """Ask for levels at each scrape, in the thread that answers it."""
        self.registry.register(_AskedFor(levels))

    def counted(self, run: str, *, late: bool) -> None:
        """An update was counted."""
        self._accepted.labels(run, "true" if late else "false").inc()

    def refused(self, run: str, cause: str) -> None:
        """An update was refused, or left out as an outlier."""
        self._refused.labels(run, cause).inc()

    def closed(self, run: str, record: RoundRecord) -> None:
        """A round was closed."""
        self._rounds.labels(run, "closed").inc()
        self._seconds.labels(run).observe(record.seconds)
        self._version.labels(run).set(record.model_version)
        for gauge, value in ((self._accuracy, record.accuracy), (self._loss, record.loss)):
            if value is not None:
                gauge.labels(run).set(value)

    def given_up(self, run: str) -> None:
        """A round came to nothing."""
        self._rounds.labels(run, "given-up").inc()

    def epsilon(self, run: str, planned: float, spent: float) -> None:
        """What a private run's devices spend."""
        self._planned.labels(run).set(planned)
        self._spent.labels(run).set(spent)

    def standing(self, run: str, alerts: Mapping[AlertKind, str], raised: Iterable[AlertKind]) -> None:
        """The alerts that stand, and those of them that are new."""
        for kind in get_args(AlertKind):
            self._active.labels(run, kind).set(kind in alerts)
        for kind in raised:
            self._alerts.labels(run, kind).inc()


@dataclass(frozen=True)
class _AskedFor(Collector):
    levels: Callable[[], Levels]

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        now = self.levels()
        for name, text, value in (
            ("inbox_items", "States and updates that wait to be done", now.inbox_items),
            ("uplink_bytes", "Of updates under way or waiting to be opened", now.uplink_bytes),
            ("uplink_budget_bytes", "What may be under way or wait", now.uplink_budget),
            ("devices_online", "Devices that a round would wait for", now.devices_online),
            ("devices_quarantined", "Devices whose updates are refused until an operator releases them",
             now.devices_quarantined),
            ("broker_connected", "1 while the link to the broker is up", now.broker_connected),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"fisherfleet_{name}", text, value)
        yield from _of_health(now.health)
        traffic = CounterMetricFamily("fisherfleet_bytes", "Payload bytes from and to devices", labels=["direction"])
        traffic.add_metric(["up"], now.traffic.up)
        traffic.add_metric(["down"], now.traffic.down)
        yield traffic


def _of_health(health: FleetHealth) -> Iterable[Metric]:
    for name, text, value in (
        ("devices_paused", "Devices on line that sit out now, within their owners' limits", health.paused),
        ("devices_throttled", "Devices on line that are slowed down by heat or weak power", health.throttled),
        ("hottest_device_celsius", "Of the devices on line that tell their temperature", health.hottest),
        ("least_budget_left_epsilon", "Of the devices on line that tell what their cap leaves", health.least_budget),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"fisherfleet_{name}", text, value)

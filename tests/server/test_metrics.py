from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import exposition, parser

from server.config import RunConfig
from server.event_log import EventFilter
from server.metrics import Levels, Metrics
from server.privacy.run_words import epsilon_after
from server.records import FleetHealth, RoundRecord
from server.run_watch import RunWatch
from server.storage import Store
from server.traffic import Bytes
from wire_protocol.privacy import DevicePrivacy

ROUND = RoundRecord(3, True, 0.75, 0.5, 4, 1, 10, 20, 30, 40, 1, 1, 1, 7.0, 3)
LEVELS = Levels(2, 300, 1000, 5, 1, True, Bytes(70, 90), FleetHealth(2, 1, 71.5, None))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "state")
    yield store
    store.close()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"fisherfleet_{name}", labels)


def test_updates_rounds_and_levels_can_be_read(metrics: Metrics) -> None:
    metrics.ask(lambda: LEVELS)
    for late in (False, False, True):
        metrics.counted("run", late=late)
    metrics.refused("run", "malformed")
    metrics.closed("run", ROUND)
    metrics.given_up("run")
    assert value(metrics, "updates_accepted_total", run="run", late="false") == 2
    assert value(metrics, "updates_accepted_total", run="run", late="true") == 1
    assert value(metrics, "updates_refused_total", run="run", cause="malformed") == 1
    assert value(metrics, "rounds_total", run="run", outcome="closed") == 1
    assert value(metrics, "rounds_total", run="run", outcome="given-up") == 1
    assert value(metrics, "round_seconds_bucket", run="run", le="10.0") == 1
    assert value(metrics, "round_seconds_bucket", run="run", le="5.0") == 0
    assert (value(metrics, "accuracy", run="run"), value(metrics, "loss", run="run")) == (0.75, 0.5)
    assert value(metrics, "bytes_total", direction="up") == 70
    assert (value(metrics, "inbox_items"), value(metrics, "uplink_budget_bytes")) == (2, 1000)
    assert (value(metrics, "devices_online"), value(metrics, "broker_connected")) == (5, 1)
    assert (value(metrics, "devices_paused"), value(metrics, "devices_throttled")) == (2, 1)
    assert value(metrics, "hottest_device_celsius") == 71.5
    assert value(metrics, "least_budget_left_epsilon") is None


def test_all_of_it_is_what_the_format_allows_and_names_no_device(metrics: Metrics) -> None:
    metrics.ask(lambda: LEVELS)
    metrics.closed("run", ROUND)
    text = exposition.generate_latest(metrics.registry).decode()
    families = list(parser.text_string_to_metric_families(text))
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    assert "device" not in labels
    assert {family.name for family in families} >= {"fisherfleet_round_seconds", "process_cpu_seconds"}


def test_an_alert_is_an_event_a_metric_and_stands_until_its_cause_is_gone(metrics: Metrics, store: Store) -> None:
    now = [0.0]
    watch = RunWatch(RunConfig(round_seconds=10), metrics, store.events, lambda: now[0])
    watch.look(0, goes_on=True)
    now[0] = 40.0
    watch.look(0, goes_on=True)
    watch.look(0, goes_on=True)
    assert value(metrics, "alert_active", run="run", kind="silence") == 1
    assert value(metrics, "alert_active", run="run", kind="queue") == 0
    watch.counted()
    now[0] = 50.0
    watch.look(0, goes_on=True)
    assert value(metrics, "alert_active", run="run", kind="silence") == 0
    assert value(metrics, "alerts_total", run="run", kind="silence") == 1
    store.events.flush()
    events = store.events.list(wanted=EventFilter(kinds=("alert",)))
    assert [(one.run, one.text.partition(":")[0]) for one in events] == [("run", "silence")]


def test_a_run_that_does_not_go_on_is_not_waited_for(metrics: Metrics, store: Store) -> None:
    now = [0.0]
    watch = RunWatch(RunConfig(round_seconds=10), metrics, store.events, lambda: now[0])
    for moment, goes_on in ((100.0, False), (120.0, True)):
        now[0] = moment
        watch.look(0, goes_on=goes_on)
        assert value(metrics, "alert_active", run="run", kind="silence") == 0


def test_a_private_run_says_what_it_spends(metrics: Metrics, store: Store) -> None:
    config = RunConfig(rounds=4, selection="prefix", privacy=DevicePrivacy(clip_norm=1.0, noise_multiplier=5.0))
    watch = RunWatch(config, metrics, store.events, lambda: 0.0, closed=1)
    watch.closed(ROUND)
    watch.close()
    assert value(metrics, "epsilon_planned", run="run") == epsilon_after(config, 4)
    assert value(metrics, "epsilon_spent", run="run") == epsilon_after(config, 2)
    assert 0 < epsilon_after(config, 2) < epsilon_after(config, 4)

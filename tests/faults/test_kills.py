"""kill -9 of broker, server and devices at random moments: every update counts once, the model ends the same."""

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.party import BrokerKind, Chaos, Party, Plot, running

PLOT = Plot(devices=20, groups=5, rounds=20)
SMALL_PLOT = Plot(devices=6, groups=2, rounds=9)
"""For amqtt, which loses connections of its own accord when many clients come back at once."""
BUFFERED_PLOT = replace(
    SMALL_PLOT, rounds=40, serve=("--mode=buffered", "--buffer-goal=3", "--most-stale=2", "--quorum=3")
)


@pytest.mark.parametrize(
    ("kind", "plot", "pause"),
    [
        ("mosquitto", PLOT, (0.3, 2.5)),
        ("mosquitto-persistent", PLOT, (0.3, 2.5)),
        ("amqtt", SMALL_PLOT, (0.5, 2.0)),
    ],
)
def test_kills_change_nothing(
    kind: BrokerKind,
    plot: Plot,
    pause: tuple[float, float],
    bundle: Path,
    undisturbed: Callable[[Plot], bytes],
    tmp_path: Path,
) -> None:
    expected = undisturbed(plot)
    party = Party(tmp_path, bundle, plot, kind)
    party.provision()
    with running(party):
        party.await_end(Chaos(party.components, seed=1, pause=pause))
    assert party.counted() == dict.fromkeys(range(1, plot.rounds + 1), plot.devices)
    assert party.model() == expected
    assert sum(component.kills for component in party.components) >= 3, party.report()


def test_in_a_buffered_run_every_update_counts_once_and_none_too_late(bundle: Path, tmp_path: Path) -> None:
    """Which rounds take which updates is chance; a round is a version, so none is more than two rounds late."""
    party = Party(tmp_path, bundle, BUFFERED_PLOT, "mosquitto")
    party.provision()
    with running(party):
        party.await_end(Chaos(party.components, seed=2, pause=(0.3, 2.5)))
    assert list(party.counted()) == list(range(1, BUFFERED_PLOT.rounds + 1))
    assert min(party.counted().values()) >= 3
    database = sqlite3.connect(f"file:{party.state / 'fisherfleet.sqlite'}?mode=ro", uri=True)
    counted = database.execute("SELECT round, device, counted_in FROM updates").fetchall()
    database.close()
    assert len(counted) == sum(party.counted().values())
    assert {counted_in - number for number, _, counted_in in counted} <= {0, 1, 2}
    assert sum(component.kills for component in party.components) >= 3, party.report()

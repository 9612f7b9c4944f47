"""kill -9 of broker, server and devices at random moments: every update counts once, the model ends the same."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.party import BrokerKind, Chaos, Party, Plot, running

PLOT = Plot(devices=20, groups=5, rounds=20)
SMALL_PLOT = Plot(devices=6, groups=2, rounds=9)
"""For amqtt, which loses connections of its own accord when many clients come back at once."""


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

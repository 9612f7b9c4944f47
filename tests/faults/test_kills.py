"""kill -9 of broker, server and devices at random moments: every update counts once, the model ends the same."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.party import BrokerKind, Chaos, Party, Plot, running

PLOT = Plot(devices=20, groups=5, rounds=20)


@pytest.mark.parametrize("kind", ["mosquitto", "mosquitto-persistent", "amqtt"])
def test_kills_change_nothing(
    kind: BrokerKind, bundle: Path, undisturbed: Callable[[Plot], bytes], tmp_path: Path
) -> None:
    expected = undisturbed(PLOT)
    party = Party(tmp_path, bundle, PLOT, kind)
    party.provision()
    with running(party):
        party.await_end(Chaos(party.components, seed=1))
    assert party.counted() == dict.fromkeys(range(1, PLOT.rounds + 1), PLOT.devices)
    assert party.model() == expected
    assert sum(component.kills for component in party.components) >= 5, party.report()

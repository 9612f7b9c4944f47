"""A broker that alters, drops, reorders, duplicates and replays messages: nothing wrong is ever counted."""

from collections.abc import Callable
from pathlib import Path

from tests.faults.hostile_proxy import HostileProxy, Malice
from tests.faults.party import Party, Plot, running

PLOT = Plot(devices=6, groups=2, rounds=6, selection="fisher")
MALICE = Malice(alter=0.06, drop=0.06, duplicate=0.06, delay=0.06, replay=0.06, redirect=0.06)
PATIENCE_SECONDS = 480.0
"""Half a minute a round and more: what is lost is asked for again after seconds."""


def test_a_hostile_broker_changes_nothing(bundle: Path, undisturbed: Callable[[Plot], bytes], tmp_path: Path) -> None:
    expected = undisturbed(PLOT)
    party = Party(tmp_path, bundle, PLOT)
    with (
        HostileProxy(party.broker_port, MALICE, seed=4) as to_devices,
        HostileProxy(party.broker_port, MALICE, seed=5) as to_server,
    ):
        party.device_port, party.server_link_port = to_devices.port, to_server.port
        party.provision()
        with running(party):
            party.await_end(patience=PATIENCE_SECONDS)
    assert party.counted() == dict.fromkeys(range(1, PLOT.rounds + 1), PLOT.devices)
    assert party.model() == expected
    assert all((to_devices.done + to_server.done)[fate] for fate in vars(MALICE)), to_devices.done

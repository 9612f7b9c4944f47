"""Devices whose HTTP port is blocked train all the same: bundle, model and differences come over MQTT, in chunks."""

from collections.abc import Callable
from pathlib import Path

from tests.faults.hostile_proxy import HostileProxy, Malice
from tests.faults.party import Chaos, Party, Plot, free_port, running
from tests.faults.shaping_proxy import Link, ShapingProxy

PLOT = Plot(devices=2, groups=2, rounds=2, keep=0.25, serve=("--resync-every=1",))


def block_http(party: Party) -> None:
    """Point the devices at a port on which nobody listens."""
    party.provision()
    for path in party.folder.glob("group-*/*/device.toml"):
        text = path.read_text()
        port = str(party.http_port)
        assert f"127.0.0.1:{port}" in text
        path.write_text(text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"))


def assert_same(party: Party, expected: bytes) -> None:
    assert party.counted() == dict.fromkeys(range(1, PLOT.rounds + 1), PLOT.devices)
    assert party.model() == expected
    for group in party.groups:
        for kind in ("models", "differences"):
            assert f"fetched {kind}/" in group.text(), group.text()


def test_a_blocked_http_port_changes_nothing(
    bundle: Path, undisturbed: Callable[[Plot], bytes], tmp_path: Path
) -> None:
    expected = undisturbed(PLOT)
    party = Party(tmp_path, bundle, PLOT)
    block_http(party)
    with running(party):
        party.await_end()
    assert_same(party, expected)


def test_kills_and_cuts_in_the_middle_of_transfers_change_nothing(
    bundle: Path, undisturbed: Callable[[Plot], bytes], tmp_path: Path
) -> None:
    expected = undisturbed(PLOT)
    party = Party(tmp_path, bundle, PLOT)
    with ShapingProxy(party.broker_port, Link(bytes_per_second=250_000, delay=0.02)) as proxy:
        party.device_port = proxy.port
        block_http(party)
        for path in party.folder.glob("group-*/*/device.toml"):
            path.write_text(path.read_text() + '\ndownload = "mqtt"\n')
        chaos = Chaos(party.groups, seed=6, pause=(1.5, 4.0))
        met = set()

        def disturb() -> None:
            if chaos.victims and list(party.folder.glob("group-*/*/state/**/*.sealed")):
                met.add(sum(group.kills for group in party.groups))
                if len(met) == 2:
                    proxy.cut(1.0)
                    met.add(-1)
                if len(met) < 8:
                    chaos()

        with running(party):
            party.await_end(disturb)
    assert_same(party, expected)
    assert len(met) >= 3, met


def test_a_broker_that_alters_files_changes_nothing(
    bundle: Path, undisturbed: Callable[[Plot], bytes], tmp_path: Path
) -> None:
    expected = undisturbed(PLOT)
    party = Party(tmp_path, bundle, PLOT)
    with HostileProxy(party.broker_port, Malice(alter=0.05, drop=0.03, replay=0.05), seed=7) as proxy:
        party.device_port = proxy.port
        block_http(party)
        with running(party):
            party.await_end()
    assert_same(party, expected)

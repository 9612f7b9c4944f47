"""Emulated fleets and the example have identities as real fleets do."""

import runpy
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from devices.emulation.device_folders import create_emulated_fleet
from server.registry import decode_registry
from wire_protocol.identity import load_fleet, load_identities

EXAMPLE = Path(__file__).parents[2] / "examples/digits_for_two_devices.py"


def test_every_emulated_device_has_registered_keys_and_no_certificate(tmp_path):
    fleet = create_emulated_fleet(tmp_path / "fleet", 3, datetime.now(UTC))
    registry = decode_registry(fleet.registry.read_bytes())
    assert list(registry) == ["device-001", "device-002", "device-003"]
    for name, one in registry.items():
        (identity,) = load_identities(fleet.identity(name) / "device.key")
        assert one.keys == (identity.public,)
        assert load_fleet(fleet.identity(name) / "fleet.json") == load_fleet(fleet.fleet_file)
        assert not (fleet.identity(name) / "tls.pem").exists()
    assert len({one.keys for one in registry.values()}) == 3


@pytest.mark.parametrize("there", [False, True])
def test_the_example_takes_a_fleet_or_makes_one(there, tmp_path):
    folder = tmp_path / "my-fleet"
    if there:
        create_emulated_fleet(folder, 1, datetime.now(UTC))
    before = (folder / "operator.key").read_bytes() if there else None
    main = runpy.run_path(str(EXAMPLE))["main"]
    main(folder, "mqtt://127.0.0.1:1884")
    main(folder, "mqtt://127.0.0.1:1884")
    assert load_fleet(folder / "fleet.json").name == ("emulation" if there else "digits")
    assert before in (None, (folder / "operator.key").read_bytes())
    registry = decode_registry((folder / "devices.json").read_bytes())
    for name in ("device-001", "device-002"):
        home = folder / "devices" / name
        (identity,) = load_identities(home / "identity/device.key")
        assert registry[name].keys == (identity.public,)
        assert 'broker = "mqtt://127.0.0.1:1884"' in (home / "device.toml").read_text()
        with np.load(home / "data.npz") as data:
            assert len(data["x"]) == len(data["y"]) > 0
    assert (folder / "test.npz").exists()

"""`fisherfleet devices provision --token`: folders with which devices enrol themselves at a real server."""

import asyncio
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from devices.flashing.device_folder import device_files
from edge_client.config import load_config
from edge_client.enrolment_file import enrol_at_first_start, read_enrolment
from server.console.link import SERVER_VARIABLE
from server.fleet.fleet_folder import create_fleet
from server.registry import REGISTRY_NAME, Registry


@pytest.fixture
def home(tmp_path):
    return create_fleet(tmp_path / "home", "home", ("broker.local",), datetime.now(UTC))


@pytest.fixture
def sources(sources, home):
    return replace(sources, fleet=home, registry=Registry.load(home.path / REGISTRY_NAME))


async def test_devices_enrol_themselves_with_what_was_made_for_them(typed, home, tmp_path) -> None:
    out = tmp_path / "cards"
    words = ("devices", "provision", "--fleet", str(home.path), "--token", "--out", str(out), "--count", "2")
    named = ("--prefix", "pi-", "--profile", "raspberry-pi-4", "--broker", "mqtts://broker.local:8883")
    status, said, error = await typed(*words, *named, "--server", "https://broker.local:8443")
    assert (status, error) == (0, "")
    tokens = []
    for name in ("pi-001", "pi-002"):
        file = out / name / "enrol.toml"
        enrolment, token = read_enrolment(file)
        assert (enrolment.device, enrolment.server) == (name, "https://broker.local:8443")
        assert enrolment.ca_file.read_bytes() == (home.broker / "ca.pem").read_bytes()
        assert [one.name for one in device_files(out / name)] == ["ca.pem", "enrol.toml"]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert token not in said
        tokens.append(token)
    assert len(set(tokens)) == 2
    status, said, _error = await typed(*words, *named)
    assert (status, f"change it in {out}/NAME/enrol.toml." in said) == (0, True)
    assert read_enrolment(out / "pi-001/enrol.toml")[1] == tokens[0]


async def test_a_token_is_good_for_the_device_of_its_name(typed, home, tmp_path) -> None:
    url = os.environ[SERVER_VARIABLE]
    words = ("--token", "--out", str(tmp_path / "cards"), "--profile", "generic-arm64", "--server", url)
    broker = ("--broker", "mqtts://broker.local:8883")
    status, said, _error = await typed("devices", "provision", "kitchen", "--fleet", str(home.path), *words, *broker)
    assert (status, f"broker mqtts://broker.local:8883, server {url}." in said) == (0, True)
    status, said, _error = await typed("devices", "provision", "garden", "--fleet", str(home.path), *words)
    assert (status, f"server {url}, which tells them its own broker" in said) == (0, True)
    folder = tmp_path / "cards/kitchen"
    await asyncio.to_thread(enrol_at_first_start, folder / "enrol.toml")
    config = load_config(folder / "device.toml")
    assert (config.device, config.threads, config.limits.memory_mb) == ("kitchen", 3, 800)

"""A real mosquitto with the configuration that `fisherfleet broker-config` writes, for a fleet of two devices."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from devices.brokers.__main__ import main as broker_config
from devices.emulation.broker import find_mosquitto
from devices.provisioning.enrolment import Surroundings, add_devices
from server.fleet.fleet_folder import FleetFolder, create_fleet

WAIT_SECONDS = 30
NOW = datetime.now(UTC)
_RUNS, _RELOADS = " running\n", "Reloading config"


@dataclass
class Mosquitto:
    """A broker of one configuration file, started and stopped by the test."""

    configuration: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.configuration.with_suffix(".log")

    def start(self) -> None:
        """Wait until it says that it runs: it listens before it heeds signals."""
        seen = self.log.read_text().count(_RUNS) if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [find_mosquitto(), "-c", self.configuration], stdout=log, stderr=subprocess.STDOUT
            )
        self._until(lambda: self.log.read_text().count(_RUNS) > seen)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(WAIT_SECONDS)
            self.process = None

    def reload(self) -> None:
        """SIGHUP, and wait until the log says that it was taken."""
        seen = self.log.read_text().count(_RELOADS)
        self.process.send_signal(signal.SIGHUP)
        self._until(lambda: self.log.read_text().count(_RELOADS) > seen)

    def _until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not happened():
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    @property
    def url(self) -> str:
        return f"mqtts://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    folder = create_fleet(tmp_path / "home", "home", ("127.0.0.1",), NOW)
    add_devices(folder, ["kitchen", "garden"], Surroundings(), NOW)
    return folder


@pytest.fixture
def mosquitto() -> Iterator[Callable[..., Mosquitto]]:
    """Starts a broker of this configuration file, some of whose settings are replaced."""
    if not find_mosquitto():
        pytest.skip("needs mosquitto")
    running: list[Mosquitto] = []

    def start(configuration: Path, port: int, **settings: str) -> Mosquitto:
        kept = [line for line in configuration.read_text().splitlines() if line.split(" ")[0] not in settings]
        kept += [f"{name} {value}" for name, value in settings.items() if value]
        kept += ["user root"] if os.geteuid() == 0 else []
        changed = configuration.with_name("tried.conf")
        changed.write_text("\n".join(kept) + "\n")
        broker = Mosquitto(changed, port)
        running.append(broker)
        broker.start()
        return broker

    yield start
    for broker in running:
        broker.stop()


@pytest.fixture
def secured(fleet: FleetFolder, mosquitto: Callable[..., Mosquitto]) -> Callable[..., Mosquitto]:
    """Starts a broker as `fisherfleet broker-config mosquitto` sets it up for the fleet."""

    def start(**settings: str) -> Mosquitto:
        port = free_port()
        assert broker_config(["mosquitto", "--fleet", str(fleet.path), "--port", str(port)]) == 0
        return mosquitto(fleet.broker / "mosquitto.conf", port, **settings)

    return start


@pytest.fixture
def plain(tmp_path: Path, mosquitto: Callable[..., Mosquitto]) -> Callable[..., Mosquitto]:
    """Starts a broker without TLS and without rules."""

    def start(**settings: str) -> Mosquitto:
        port = free_port()
        configuration = tmp_path / "plain.conf"
        configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest stderr\n")
        return mosquitto(configuration, port, **settings)

    return start

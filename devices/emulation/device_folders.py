"""A folder for each emulated device: the `device.toml`, the data file and the identity that a real device would have.

The fleet's folder is a real one too, its devices below `devices/`; without certificates, as loopback needs no TLS.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from devices.provisioning import enrolment
from devices.provisioning.enrolment import CONFIG_NAME, add_devices
from server.fleet.fleet_folder import FleetFolder, create_fleet
from wire_protocol.broker_url import BrokerUrl
from wire_protocol.examples import Examples
from wire_protocol.toml_text import toml_text

DATA_NAME = "data.npz"
FLEET = "emulation"


@dataclass(frozen=True)
class Surroundings:
    """What every device of the fleet is told alike; `run` None lets it take part in any run."""

    broker: BrokerUrl
    server: str
    runtime: str
    run: str | None


def device_name(number: int) -> str:
    """Identifier of device `number`, counted from 1."""
    return f"device-{number:03d}"


def create_emulated_fleet(path: Path, devices: int, now: datetime) -> FleetFolder:
    """A fleet folder with the identities of so many devices."""
    fleet = create_fleet(path, FLEET, (), now)
    names = [device_name(number) for number in range(1, devices + 1)]
    add_devices(fleet, names, enrolment.Surroundings(tls=False), now, durably=False)
    return fleet


def write_device_folder(folder: Path, number: int, examples: Examples, surroundings: Surroundings, seed: int) -> None:
    """Write one device's configuration and data below `folder`."""
    home = folder / device_name(number)
    home.mkdir(parents=True, exist_ok=True)
    np.savez(home / DATA_NAME, x=examples.x, y=examples.y)
    table: dict[str, str | int] = {
        "device": device_name(number),
        "broker": str(surroundings.broker),
        "server": surroundings.server,
        "data": DATA_NAME,
        "runtime": surroundings.runtime,
        "seed": int(np.random.default_rng([seed, number]).integers(2**31)),
    }
    if surroundings.run is not None:
        table["run"] = surroundings.run
    (home / CONFIG_NAME).write_text(toml_text(table), encoding="utf-8")

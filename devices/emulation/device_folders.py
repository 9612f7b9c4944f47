"""A folder for each emulated device: the `device.toml` and the data file that a real device would have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wire_protocol.broker_url import BrokerUrl
from wire_protocol.examples import Examples

CONFIG_NAME = "device.toml"
DATA_NAME = "data.npz"


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
    (home / CONFIG_NAME).write_text(_toml(table), encoding="utf-8")


def _toml(table: Mapping[str, str | int]) -> str:
    """TOML's basic strings and integers are written as JSON's are."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())

"""Boards as data: what a kind of device can do, one TOML file each in this folder, named by its identifier.

    name = "Raspberry Pi 4"
    architecture = "aarch64"        # as `uname -m` says
    cores = 4
    memory_mb = 4096                # of the board
    free_mb = 3400                  # of it beside the operating system, for one process
    systems = ["trixie"]            # of devices/flashing/systems.py: what it can run, the newest first
    [compute]
    multiply_accumulates = 3_000_000_000    # a second, float32, of one thread in products of matrices
    source = "who measured it, or the word estimate"
    [link]                          # of the network it usually has
    up_bits = 10_000_000            # a second
    down_bits = 50_000_000
    latency_seconds = 0.02          # there and back
    source = "..."
    [power]
    idle_watts = 2.7                # of the whole board
    busy_watts = 7.2
    source = "..."
    [training]                      # what `fisherfleet devices provision` writes into device.toml
    threads = 3
    memory_mb = 1700                # [limits]: of the client's process
    max_temperature = 75            # [limits]: degrees Celsius; only for a board that surely has a sensor
    source = "..."

Speeds follow one rule, so that boards can be compared: double-precision Gflop/s of HPL (High-Performance Linpack)
divided by cores are billions of single-precision multiply-accumulates a second of one core, as single precision is
twice as fast and a multiply-accumulate is two operations. Unknown keys are refused. Raises `ProfileError`, which names
file, key, value and what is legal.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from devices.errors import ProfileError
from devices.flashing.systems import SYSTEMS
from wire_protocol.errors import InvalidValueError, require

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent

_T = TypeVar("_T")


@dataclass(frozen=True)
class Compute:
    """Float32 multiply-accumulates a second of one thread, and where the figure comes from."""

    multiply_accumulates: float
    source: str


@dataclass(frozen=True)
class Link:
    """Bits a second up and down, seconds there and back, and where the figures come from."""

    up_bits: float
    down_bits: float
    latency_seconds: float
    source: str


@dataclass(frozen=True)
class Power:
    """Watts of the whole board when it does nothing and when it trains, and where the figures come from."""

    idle_watts: float
    busy_watts: float
    source: str


@dataclass(frozen=True)
class Training:
    """What a device of this kind is given to train with unless its owner says otherwise, and why.

    `max_temperature` is in degrees Celsius, None where a sensor is not sure to be there.
    """

    threads: int
    memory_mb: int
    max_temperature: float | None
    source: str


@dataclass(frozen=True)
class Profile:
    """A kind of device; units as in the file."""

    id: str
    name: str
    architecture: str
    cores: int
    memory_mb: int
    free_mb: int
    systems: tuple[str, ...]
    compute: Compute
    link: Link
    power: Power
    training: Training


@cache
def load_profiles() -> dict[str, Profile]:
    """All profiles that come with the package, by identifier, in the order of their speed."""
    found = [load_profile(path) for path in FOLDER.glob("*.toml")]
    found.sort(key=lambda profile: (profile.compute.multiply_accumulates, profile.id))
    return {profile.id: profile for profile in found}


def load_profile(path: Path) -> Profile:
    """Read one file strictly."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ProfileError(f"{path} cannot be read as TOML: {error}") from error
    try:
        return _profile(path.stem, table)
    except InvalidValueError as error:
        raise ProfileError(f"{path}: {error}") from error


def _profile(identifier: str, table: Mapping[str, Any]) -> Profile:
    _require_keys("", table, [field.name for field in fields(Profile) if field.name != "id"])
    profile = Profile(
        id=identifier,
        name=_text("name", table["name"]),
        architecture=_text("architecture", table["architecture"]),
        **{name: _count(name, table[name]) for name in ("cores", "memory_mb", "free_mb")},
        systems=_systems(table["systems"]),
        compute=_part("compute", Compute, table["compute"]),
        link=_part("link", Link, table["link"]),
        power=_part("power", Power, table["power"]),
        training=_training(table["training"]),
    )
    _require_room(profile)
    least = profile.power.idle_watts
    require(profile.power.busy_watts >= least, "power.busy_watts", profile.power.busy_watts, f"at least {least} idle")
    return profile


def _require_room(profile: Profile) -> None:
    most, training = profile.memory_mb, profile.training
    require(profile.free_mb <= most, "free_mb", profile.free_mb, f"at most memory_mb, which is {most}")
    legal = f"at most cores, which is {profile.cores}"
    require(training.threads <= profile.cores, "training.threads", training.threads, legal)
    legal = f"at most free_mb, which is {profile.free_mb}"
    require(training.memory_mb <= profile.free_mb, "training.memory_mb", training.memory_mb, legal)


def _training(value: object) -> Training:
    table = _table("training", value)
    _require_keys("training.", {"max_temperature": None, **table}, [field.name for field in fields(Training)])
    hottest = table.get("max_temperature")
    return Training(
        threads=_count("training.threads", table["threads"]),
        memory_mb=_count("training.memory_mb", table["memory_mb"]),
        max_temperature=None if hottest is None else _amount("training.max_temperature", hottest),
        source=_text("training.source", table["source"]),
    )


def _systems(value: object) -> tuple[str, ...]:
    right = isinstance(value, list) and bool(value) and all(one in tuple(SYSTEMS) for one in value)
    require(right, "systems", value, f"a list of {', '.join(SYSTEMS)}")
    assert isinstance(value, list)
    return tuple(value)


def _part(name: str, kind: type[_T], table: object) -> _T:
    table = _table(name, table)
    keys = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    _require_keys(f"{name}.", table, keys)
    return kind(**{key: (_text if key == "source" else _amount)(f"{name}.{key}", table[key]) for key in keys})


def _table(name: str, value: object) -> Mapping[str, Any]:
    require(isinstance(value, Mapping), name, value, f"a table [{name}]")
    assert isinstance(value, Mapping)
    return value


def _require_keys(where: str, table: Mapping[str, Any], legal: list[str]) -> None:
    for key in table:
        require(key in legal, "key", f"{where}{key}", f"one of {', '.join(where + one for one in legal)}")
    for key in legal:
        require(key in table, f"{where}{key}", None, "given")


def _text(name: str, value: object) -> str:
    require(isinstance(value, str) and bool(value), name, value, "a text")
    return str(value)


def _count(name: str, value: object) -> int:
    right = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    require(right, name, value, "a whole number of at least 1")
    assert isinstance(value, int)
    return value


def _amount(name: str, value: object) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value > 0
    require(right, name, value, "a finite number above 0")
    assert isinstance(value, int | float)
    return float(value)

"""A fleet of virtual devices: of which kind each is, how fast its link is, and when it is there.

All of it follows from the seed and is held as a few arrays, so that a device that does nothing costs some 50 bytes.

A device with availability a < 1 is there for the first part a of every period, and away for the rest of it; its period
is drawn log-uniformly around the one asked for (half to twice) and begins anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.emulation.device_folders import device_name
from devices.profiles.profile import Profile, load_profiles
from wire_protocol.errors import require

Floats = NDArray[np.float64]
BITS_A_BYTE = 8


@dataclass(frozen=True)
class LinkRange:
    """Bits a second, both ways alike, drawn log-uniformly from `low` to `high`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        legal = 0 < self.low <= self.high < inf
        require(legal, "link", f"{self.low:g}-{self.high:g}", "two rates above 0 in bits a second, the lower first")


@dataclass(frozen=True)
class FleetShape:
    """What a fleet is drawn from: shares of profiles by their identifiers (None of `link`: the profiles' own links).

    `availability` in (0, 1] is the part of the time that a device is there, `period` the seconds from one coming to
    the next.
    """

    devices: int
    mix: Mapping[str, float]
    link: LinkRange | None = None
    availability: float = 1.0
    period: float = 3600.0

    def __post_init__(self) -> None:
        require(self.devices >= 1, "devices", self.devices, "at least 1")
        require(bool(self.mix), "mix", dict(self.mix), "at least one profile")
        known = load_profiles()
        for name, share in self.mix.items():
            require(name in known, "mix", name, f"of the profiles {', '.join(known)}")
            require(0 < share < inf, f"share of {name}", share, "above 0 and finite")
        require(0 < self.availability <= 1, "availability", self.availability, "above 0 and at most 1")
        require(0 < self.period < inf, "period", self.period, "above 0 and finite")


@dataclass(frozen=True)
class VirtualFleet:
    """`kinds` are indices of `profiles` (int8), links are in bytes a second and seconds; one entry a device."""

    profiles: tuple[Profile, ...]
    names: tuple[str, ...]
    kinds: NDArray[np.int8]
    up: Floats
    down: Floats
    latency: Floats
    availability: float
    period: Floats
    offset: Floats

    def __len__(self) -> int:
        return len(self.names)

    def profile(self, device: int) -> Profile:
        """Its kind."""
        return self.profiles[int(self.kinds[device])]

    def online(self, now: float) -> NDArray[np.bool_]:
        """Who is there at a moment, in seconds from the start."""
        return np.asarray(self._phase(now) < self.availability)

    def leaves(self, device: int, now: float) -> float:
        """When a device that is there now goes away, in seconds from the start; infinite for one that stays."""
        if self.availability == 1:
            return inf
        period = float(self.period[device])
        return now + period * (self.availability - float(self._phase(now)[device]))

    def _phase(self, now: float) -> Floats:
        return np.asarray((now / self.period + self.offset) % 1.0)


def draw_fleet(shape: FleetShape, seed: int) -> VirtualFleet:
    """The fleet of a shape and a seed; equal arguments give equal fleets."""
    profiles = tuple(profile for name, profile in load_profiles().items() if name in shape.mix)
    generator = np.random.default_rng([seed, shape.devices])
    count = shape.devices
    kinds = generator.permutation(_kinds([shape.mix[profile.id] for profile in profiles], count))
    rates = _rates(shape.link, profiles, kinds, generator)
    return VirtualFleet(
        profiles=profiles,
        names=tuple(device_name(number) for number in range(1, count + 1)),
        kinds=kinds,
        up=rates[0] / BITS_A_BYTE,
        down=rates[1] / BITS_A_BYTE,
        latency=np.array([profile.link.latency_seconds for profile in profiles])[kinds],
        availability=shape.availability,
        period=shape.period * np.exp(generator.uniform(-log(2), log(2), count)),
        offset=generator.random(count),
    )


def _kinds(shares: list[float], count: int) -> NDArray[np.int8]:
    """As many of each kind as its share says, to the nearest device."""
    ends = np.rint(np.cumsum(shares) / np.sum(shares) * count).astype(np.int64)
    return np.repeat(np.arange(len(shares)), np.diff(ends, prepend=0)).astype(np.int8)


def _rates(
    link: LinkRange | None, profiles: tuple[Profile, ...], kinds: NDArray[Any], generator: np.random.Generator
) -> tuple[Floats, Floats]:
    if link is None:
        usual = [(profile.link.up_bits, profile.link.down_bits) for profile in profiles]
        up, down = np.array(usual, dtype=np.float64).T
        return up[kinds], down[kinds]
    rates = np.exp(generator.uniform(log(link.low), log(link.high), len(kinds)))
    return rates, rates

"""Who is offered a release when, sans-I/O: a part of the fleet first, the rest once that part has proven it.

Devices are ordered by a hash of version, attempt and name, so that it is not always the same ones that go first, and a
restart changes nothing. An update halts by itself where more than `halt_at` of those that took it say that it failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from typing import Literal

from wire_protocol.errors import require
from wire_protocol.release_version import require_version
from wire_protocol.releases import MAX_ATTEMPTS, ReleaseStatus
from wire_protocol.topics import require_identifier

PROVEN_SHARE = 0.9
"""Of the first part, that has to have confirmed a release before the rest is offered it."""
MOST_DEVICES = 10_000

RolloutStatus = Literal["going", "halted"]
_TOOK: frozenset[ReleaseStatus] = frozenset({"trial", "confirmed", "failed"})


@dataclass(frozen=True)
class Rollout:
    """A version offered at `attempt` to `devices`, to those with `tag`, or, without either, to all.

    The share `fraction` of them, in (0, 1], is offered it first; `halt_at` is in [0, 1].
    """

    version: str
    attempt: int = 1
    devices: tuple[str, ...] = ()
    tag: str | None = None
    fraction: float = 1.0
    halt_at: float = 0.1

    def __post_init__(self) -> None:
        require_version("version", self.version)
        require(1 <= self.attempt <= MAX_ATTEMPTS, "attempt", self.attempt, f"1 to {MAX_ATTEMPTS}")
        require(len(self.devices) <= MOST_DEVICES, "devices", len(self.devices), f"at most {MOST_DEVICES}")
        for device in self.devices:
            require_identifier("device", device)
        if self.tag is not None:
            require_identifier("tag", self.tag)
        require(not (self.devices and self.tag), "tag", self.tag, "left out where devices are named")
        require(0 < self.fraction <= 1, "fraction", self.fraction, "above 0 and at most 1")
        require(0 <= self.halt_at <= 1, "halt_at", self.halt_at, "0 to 1")

    def members(self, enrolled: Iterable[str], tagged: frozenset[str]) -> tuple[str, ...]:
        """Of the devices enrolled those it is for, in the order of their turn; `tagged` are those with its tag."""
        named = frozenset(self.devices) if self.devices else None
        if self.tag is not None:
            named = tagged
        mine = (device for device in enrolled if named is None or device in named)
        return tuple(sorted(mine, key=self._turn))

    def _turn(self, device: str) -> bytes:
        return sha256(f"{self.version}/{self.attempt}/{device}".encode()).digest()


@dataclass(frozen=True)
class Said:
    """What a device last said of an offer."""

    version: str
    attempt: int
    status: ReleaseStatus


@dataclass(frozen=True)
class Progress:
    """How a rollout stands: whom it is for, whom it is `offered` to now, counts of what they said, and why it must
    halt, "" if it need not.
    """

    everybody: tuple[str, ...]
    offered: frozenset[str]
    confirmed: int
    failed: int
    trying: int
    halt: str


def progress(rollout: Rollout, members: tuple[str, ...], said: Mapping[str, Said]) -> Progress:
    """How a rollout to these members stands by their own words."""
    mine = {device: said[device].status for device in members if _is_of(said.get(device), rollout)}
    confirmed = sum(status == "confirmed" for status in mine.values())
    failed = sum(status == "failed" for status in mine.values())
    took = sum(status in _TOOK for status in mine.values())
    halt = ""
    if failed and failed > rollout.halt_at * took:
        halt = f"{failed} of {took} devices that took release {rollout.version} say that it failed"
    first = members[: ceil(rollout.fraction * len(members))]
    needed = ceil(PROVEN_SHARE * sum(mine.get(device) != "refused" for device in first))
    proven = sum(mine.get(device) == "confirmed" for device in first) >= needed
    return Progress(
        everybody=members,
        offered=frozenset(members if proven else first),
        confirmed=confirmed,
        failed=failed,
        trying=took - confirmed - failed,
        halt=halt,
    )


def _is_of(said: Said | None, rollout: Rollout) -> bool:
    return said is not None and (said.version, said.attempt) == (rollout.version, rollout.attempt)

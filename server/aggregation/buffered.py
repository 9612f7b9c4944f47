"""Buffered asynchronous aggregation, FedBuff (Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba 2022, "Federated
Learning with Buffered Asynchronous Aggregation", algorithm 1). Sans-I/O: events in, the next state and a verdict out.

Devices train whenever they can, from whatever version they have. An update is kept until there are `goal`; then they
are aggregated, the version rises by one, and the buffer is empty. An update trained from version t - s that arrives at
version t is s versions stale, and counts discount(s) times its difference (section 3, "staleness scaling")::

    discount(s) = 1 / (1 + s)^a,        a = 1/2 in the paper

The discount is a contribution's `scale` and not its weight: as in the paper the divisor does not shrink with it, so a
buffer of stale updates moves the model less, instead of as far as a buffer of fresh ones.

Invariants: an update counts at most once, one for each device and version trained from, whichever version it went into;
one staler than `most_stale` is refused; the state holds names and no arrays, and only of the last `most_stale` + 1
versions. What counts is written down elsewhere, so a `Buffer` can be made again after a restart. Updates are folded in
the order of (version trained from, device), not of arrival.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

from wire_protocol.errors import require


@dataclass(frozen=True)
class BufferRule:
    """A version is due at `goal` updates (at least 1); one more than `most_stale` versions old is refused.

    `exponent` is a, at least 0; 0 counts stale updates as fresh ones.
    """

    goal: int
    most_stale: int
    exponent: float = 0.5

    def __post_init__(self) -> None:
        require(self.goal >= 1, "goal", self.goal, "at least 1")
        require(self.most_stale >= 0, "most_stale", self.most_stale, "at least 0")
        require(self.exponent >= 0 and isfinite(self.exponent), "exponent", self.exponent, "at least 0 and finite")

    def discount(self, staleness: int) -> float:
        """How much of its difference an update counts, in (0, 1]."""
        return float((1 + staleness) ** -self.exponent)


@dataclass(frozen=True, order=True)
class Trained:
    """Which update: from what version, by whom."""

    version: int
    device: str


@dataclass(frozen=True)
class Buffer:
    """The updates kept for the version after `version`, and those that went into this and earlier ones."""

    version: int
    kept: frozenset[Trained] = frozenset()
    spent: frozenset[Trained] = frozenset()


@dataclass(frozen=True)
class Kept:
    """The update counts, `scale` times its difference."""

    scale: float


@dataclass(frozen=True)
class Stale:
    """The update must not be counted."""

    reason: str


@dataclass(frozen=True)
class Repeated:
    """This very update, or another of the device from the same version, counts already."""


def receive(rule: BufferRule, buffer: Buffer, trained: Trained) -> tuple[Buffer, Kept | Stale | Repeated]:
    """An update has arrived and passed screening."""
    staleness = buffer.version - trained.version
    if staleness < 0:
        return buffer, Stale(f"update was trained from version {trained.version}, the newest is {buffer.version}")
    if staleness > rule.most_stale:
        return buffer, Stale(f"update is {staleness} versions old, at most {rule.most_stale} are counted")
    if trained in buffer.kept or trained in buffer.spent:
        return buffer, Repeated()
    return replace(buffer, kept=buffer.kept | {trained}), Kept(rule.discount(staleness))


def is_due(rule: BufferRule, buffer: Buffer) -> bool:
    """Whether enough is kept for the next version."""
    return len(buffer.kept) >= rule.goal


def in_order(rule: BufferRule, buffer: Buffer) -> list[tuple[Trained, float]]:
    """What the next version is made of, with each update's scale, in the order to fold in."""
    return [(trained, rule.discount(buffer.version - trained.version)) for trained in sorted(buffer.kept)]


def released(rule: BufferRule, buffer: Buffer) -> Buffer:
    """The state after the next version is made from what was kept."""
    version = buffer.version + 1
    oldest = version - rule.most_stale
    spent = {trained for trained in buffer.kept | buffer.spent if trained.version >= oldest}
    return Buffer(version, spent=frozenset(spent))

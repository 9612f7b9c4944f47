"""Who takes part in a round, by verifiable sampling: both ends compute it, and no list is sent.

    draw = the first 53 bits of SHA-256("{seed}/{round}/{device}"), as a fraction of 2^53
    the device takes part where draw < rate

with seed and round decimal and all in ASCII. So every device is drawn in about `rate` of all rounds, independently of
the others and of what it would like. A draw is no secret: who knows the plan knows who was drawn, so sampling of this
kind gives no privacy by itself.
"""

from __future__ import annotations

from hashlib import sha256

_BITS = 53
"""What a float64 holds exactly."""


def takes_part(rate: float, seed: int, number: int, device: str) -> bool:
    """Whether the device is drawn in round `number`; `rate` is in (0, 1], and 1 draws everybody."""
    return draw(seed, number, device) < rate


def draw(seed: int, number: int, device: str) -> float:
    """The device's number for a round, in [0, 1)."""
    digest = sha256(f"{seed}/{number}/{device}".encode()).digest()
    return float((int.from_bytes(digest[:8], "big") >> (64 - _BITS)) / (1 << _BITS))

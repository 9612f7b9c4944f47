"""What a rule of aggregation reads: one device's difference, its weight, and by how much it counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Protocol

from wire_protocol.errors import require
from wire_protocol.sub_model import Arrays, SubModel


@dataclass(frozen=True)
class Contribution:
    """The difference `scale * values`: float32 arrays of the sub-model's shapes, times a number above 0.

    `weight`, above 0, is its share in a weighted mean: the device's examples, an integer, so that sums of weights are
    exact in float64. `scale` shrinks a difference whose norm is bounded or that is stale, and leaves its weight alone.
    """

    sub_model: SubModel
    values: Arrays
    weight: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.weight < inf, "weight", self.weight, "above 0 and finite")
        require(0 < self.scale < inf, "scale", self.scale, "above 0 and finite")


class Contributions(Protocol):
    """A round's contributions, always the same ones in the same order, as often as one asks; none need be in memory."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Contribution]: ...

"""Which training examples a virtual device holds, by index into the arrays that all devices share.

Dealt out, every example belongs to one device (`splits`). Drawn, each device has its own draw of all examples, of a
given size and with class proportions of a symmetric Dirichlet distribution (Hsu et al. 2019): devices may hold the same
example, and any number of devices can be had. A draw is made when it is asked for and follows from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import require

Indices = NDArray[np.int64]


class Shares(Protocol):
    """The examples of every device."""

    def of(self, device: int) -> Indices:
        """Sorted indices of the examples of a device, at least one."""
        ...


@dataclass(frozen=True)
class Dealt:
    """Given index arrays."""

    split: Sequence[Indices]

    def of(self, device: int) -> Indices:
        """See `Shares`."""
        return self.split[device]


@dataclass(frozen=True)
class Drawn:
    """`count` examples a device; `by_class` has the indices of every class's examples."""

    by_class: tuple[Indices, ...]
    count: int
    alpha: float
    seed: int

    def __post_init__(self) -> None:
        most = sum(map(len, self.by_class))
        require(1 <= self.count <= most, "examples", self.count, f"1 to {most}, all that there are")
        require(1e-3 <= self.alpha <= 1e6, "alpha", self.alpha, "from 0.001 to 1000000")

    def of(self, device: int) -> Indices:
        """See `Shares`; of a class that is used up others take the rest, in turn."""
        generator = np.random.default_rng([self.seed, device])
        sizes = np.array([len(indices) for indices in self.by_class])
        wanted = generator.multinomial(self.count, generator.dirichlet(np.full(len(sizes), self.alpha)))
        wanted = _within(wanted, sizes)
        taken = [generator.choice(of, size, replace=False) for of, size in zip(self.by_class, wanted, strict=True)]
        return np.sort(np.concatenate(taken))


def draw_shares(labels: Indices, count: int, alpha: float, seed: int) -> Drawn:
    """`count` examples of `labels` (n,) for each of any number of devices; raises `InvalidValueError`."""
    by_class = tuple(np.flatnonzero(labels == label) for label in np.unique(labels))
    return Drawn(by_class, count, alpha, seed)


def _within(wanted: Indices, sizes: Indices) -> Indices:
    """At most `sizes` of each, and as many in all as before."""
    taken = np.minimum(wanted, sizes)
    for label in np.argsort(-wanted, kind="stable"):
        missing = int(wanted.sum() - taken.sum())
        taken[label] += min(missing, int(sizes[label] - taken[label]))
    return taken

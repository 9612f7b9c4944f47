"""Which device holds which training examples: a seeded non-IID split, or the split that the data names itself.

Invariants of every split: the devices' index arrays are sorted and disjoint, and together hold every example once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import require
from wire_protocol.examples import ExamplesError

Indices = NDArray[np.int64]

DEFAULT_MINIMUM = 10
"""Fewer examples a device than this make its gradient mostly noise; Flower's Dirichlet partitioner uses the same."""


def dirichlet_split(
    labels: NDArray[np.int64], devices: int, alpha: float, seed: int, minimum: int = DEFAULT_MINIMUM
) -> list[Indices]:
    """Indices (int64, sorted) of each device's examples; small `alpha` gives devices few classes and unequal shares.

    Each class is dealt out in proportions drawn from a symmetric Dirichlet(alpha) over the devices. That is how
    Yurochkin et al. (2019) and Li et al. (2022) apply the Dirichlet label skew of Hsu et al. (2019), whose own draw,
    over classes for each device, would give all devices equally many examples. A device left with fewer than `minimum`
    examples then takes random ones, one at a time, from whichever device holds the most: the split ends after at most
    devices x minimum moves.

    `labels` has shape (n,); `devices` is at least 1, `alpha` in [1e-3, 1e6], `seed` at least 0, `minimum` at least 1;
    else `InvalidValueError`. Raises `ExamplesError` where n is less than devices x minimum.
    """
    require(devices >= 1, "devices", devices, "at least 1")
    require(1e-3 <= alpha <= 1e6, "alpha", alpha, "from 0.001 to 1000000")
    require(minimum >= 1, "minimum", minimum, "at least 1")
    require(seed >= 0, "seed", seed, "at least 0")
    if len(labels) < devices * minimum:
        raise ExamplesError(
            f"{len(labels)} training examples are too few for {devices} devices, "
            f"expected at least {devices * minimum} ({minimum} a device)"
        )
    generator = np.random.default_rng(seed)
    owners = _deal(labels, devices, alpha, generator)
    return natural_split(_with_minimum(owners, devices, minimum, generator))


def natural_split(owners: NDArray[np.int64]) -> list[Indices]:
    """Indices (int64, sorted) of each device's examples, where `owners` names each example's device by number.

    Numbers run from 0 without gaps, as `Dataset.owners` does; raises `InvalidValueError` where they don't.
    """
    require(len(owners) > 0, "owners", owners.tolist(), "at least one")
    require(int(owners.min()) >= 0, "owners", int(owners.min()), "device numbers of at least 0")
    counts = np.bincount(owners)
    require(bool(counts.all()), "examples of each device", counts.tolist(), "at least 1")
    by_device = np.argsort(owners, kind="stable")
    return np.split(by_device, np.cumsum(counts)[:-1])


def _deal(labels: Indices, devices: int, alpha: float, generator: np.random.Generator) -> Indices:
    owners = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(devices, alpha))
        ends = np.round(np.cumsum(shares) * len(members))
        owners[members] = np.searchsorted(ends[:-1], np.arange(len(members)), side="right")
    return owners


def _with_minimum(owners: Indices, devices: int, minimum: int, generator: np.random.Generator) -> Indices:
    counts = np.bincount(owners, minlength=devices)
    for device in range(devices):
        while counts[device] < minimum:
            donor = int(counts.argmax())
            owners[generator.choice(np.flatnonzero(owners == donor))] = device
            counts[donor] -= 1
            counts[device] += 1
    return owners

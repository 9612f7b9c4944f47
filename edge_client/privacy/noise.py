"""Gaussian noise on what a device sends, and the chance that it comes from.

Noise hides a record only while nobody can repeat it: so its generator is seeded from the operating system's entropy
(`secrets`), never from a run's seed. It is floating-point noise, whose low bits an attacker with much patience may read
(Mironov, 2012, "On significance of the least significant bits for differential privacy"); docs/privacy.md says so.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import require
from wire_protocol.sub_model import Arrays

_SEED_BITS = 256


def fresh_generator() -> np.random.Generator:
    """Chance that nobody can repeat: PCG64-DXSM with 256 bits of the operating system's entropy."""
    return np.random.Generator(np.random.PCG64DXSM(secrets.randbits(_SEED_BITS)))


def add_gaussian_noise(arrays: Arrays, stddev: float, generator: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Return `arrays` plus independent N(0, stddev^2) on every entry, float32; `stddev` is in units of the values."""
    require(0 < stddev < float("inf"), "stddev", stddev, "above 0 and finite")
    return {name: noised(array, stddev, generator) for name, array in arrays.items()}


def noised(array: NDArray[Any], stddev: float, generator: np.random.Generator) -> NDArray[np.float32]:
    """The array plus such noise, made in float64."""
    return np.asarray(array + generator.normal(0.0, stddev, array.shape), dtype=np.float32)

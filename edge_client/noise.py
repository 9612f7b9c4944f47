"""Gaussian noise on what a device sends.

This is a hook, not a privacy guarantee: without a bound on what one example or one device can change, no noise level
means anything in terms of (epsilon, delta)-differential privacy (Dwork and Roth, 2014, appendix A).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import require
from wire_protocol.sub_model import Arrays


def add_gaussian_noise(
    arrays: Arrays, stddev: float, generator: np.random.Generator | None = None
) -> dict[str, NDArray[Any]]:
    """Return `arrays` plus independent N(0, stddev^2) on every entry, float32; `stddev` is in units of the values.

    Without a `generator` the noise is fresh: its generator is seeded from the operating system's entropy, never from
    a run's seed, as noise that somebody can repeat can be taken off again. With `stddev` 0 the arrays stay as they are.
    """
    require(0 <= stddev < float("inf"), "stddev", stddev, "at least 0 and finite")
    if stddev == 0:
        return dict(arrays)
    source = np.random.default_rng() if generator is None else generator
    return {
        name: (array + source.normal(0.0, stddev, array.shape)).astype(np.float32) for name, array in arrays.items()
    }

"""How much is within the clip norm, with noise: what the server sets the next norm by (`server/adaptive_clipping.py`).

Of Andrew, Thakkar, McMahan and Ramaswamy, 2021, "Differentially private learning with adaptive clipping", on the device
itself. What is within counts as 1/2 and what is not as -1/2, so that one more or less, or nothing in place of either,
changes a sum by 1/2.
"""

from __future__ import annotations

import numpy as np

from edge_client.privacy.noise import noised

SENSITIVITY = 0.5


class ClipCount:
    """Sums over steps, each with noise of its own of standard deviation `noise_multiplier / 2`."""

    def __init__(self, noise_multiplier: float, noise: np.random.Generator) -> None:
        self._stddev = noise_multiplier * SENSITIVITY
        self._noise = noise
        self._sum, self._steps = 0.0, 0

    def add(self, within: int, counted: int) -> None:
        """One step, in which `within` of `counted` are within the norm."""
        sum_of_step = np.array(within - counted * SENSITIVITY)
        self._sum += float(noised(sum_of_step, self._stddev, self._noise))
        self._steps += 1

    def share(self, divisor: float) -> float:
        """The noised share of what is within, if `divisor` were counted in a step; 0.5 beside noise where none is."""
        return SENSITIVITY + self._sum / (divisor * self._steps)

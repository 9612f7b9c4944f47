"""Batches as the analysis of DP-SGD wants them: every record is in every batch by its own throw of a coin."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wire_protocol.errors import require
from wire_protocol.examples import Examples


def poisson_batches(
    examples: Examples, sampling_rate: float, steps: int, generator: np.random.Generator
) -> Iterator[Examples]:
    """Yield exactly `steps` batches, each with any number of the examples, also none (Abadi et al., 2016).

    Accounting by subsampling holds only while nobody knows who is in a batch: `generator` must be one that nobody can
    repeat (`noise.fresh_generator`).
    """
    require(0 < sampling_rate <= 1, "sampling_rate", sampling_rate, "above 0 and at most 1")
    for _ in range(steps):
        yield examples.take(np.flatnonzero(generator.random(len(examples)) < sampling_rate))

"""A device's own examples as batches. Nothing here leaves the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wire_protocol.errors import require
from wire_protocol.examples import Examples


def batches(examples: Examples, batch_size: int, steps: int, generator: np.random.Generator) -> Iterator[Examples]:
    """Yield exactly `steps` batches of min(batch_size, n) distinct examples each.

    Every epoch is shuffled afresh and its incomplete last batch is left out, as over many epochs every example has
    the same chance. With `batch_size` of n or more, each batch is the whole data in its own order.
    """
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    require(steps >= 1, "steps", steps, "at least 1")
    return _shuffled(examples, batch_size, steps, generator)


def _shuffled(examples: Examples, batch_size: int, steps: int, generator: np.random.Generator) -> Iterator[Examples]:
    count = len(examples)
    order = np.arange(count)
    start = count
    for _ in range(steps):
        if batch_size >= count:
            yield examples
            continue
        if start + batch_size > count:
            order, start = generator.permutation(count), 0
        yield examples.take(order[start : start + batch_size])
        start += batch_size


def drawn(examples: Examples, count: int, generator: np.random.Generator) -> Examples:
    """`count` of the examples at random, without repetition and in their order; all where there are no more."""
    if count >= len(examples):
        return examples
    return examples.take(np.sort(generator.choice(len(examples), count, replace=False)))


def in_order(examples: Examples, batch_size: int) -> Iterator[Examples]:
    """Yield all examples once, in order, in batches of at most `batch_size`."""
    for start in range(0, len(examples), batch_size):
        stop = start + batch_size
        yield Examples(examples.x[start:stop], examples.y[start:stop])

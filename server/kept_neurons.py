"""Which neurons a fleet keeps: for each neuron the share of devices whose newest update keeps it.

Groups with more neurons than a picture has columns are averaged over neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MOST_COLUMNS = 64


@dataclass(frozen=True)
class GroupShares:
    """A neuron group of `size` neurons; `shares` in [0, 1] are means over `neurons_a_column` neurons in order (the last
    column may have fewer), `never` and `always` count neurons that no device and that every device keeps.
    """

    group: str
    size: int
    neurons_a_column: int
    shares: tuple[float, ...]
    never: int
    always: int


def kept_shares(
    group_sizes: Mapping[str, int], selections: Sequence[Mapping[str, bytes]], columns: int = MOST_COLUMNS
) -> tuple[GroupShares, ...]:
    """Shares for each group, in order, of the bitmaps (`sub_model.to_bitmaps`) of devices; none without devices."""
    if not selections:
        return ()
    return tuple(_of_group(group, size, selections, columns) for group, size in group_sizes.items())


def _of_group(group: str, size: int, selections: Sequence[Mapping[str, bytes]], columns: int) -> GroupShares:
    bitmaps = np.frombuffer(b"".join(kept[group] for kept in selections), dtype=np.uint8).reshape(len(selections), -1)
    counts = np.unpackbits(bitmaps, axis=1, count=size).sum(axis=0, dtype=np.int64)
    a_column = -(-size // columns)
    starts = np.arange(0, size, a_column)
    means = np.add.reduceat(counts, starts) / np.diff(np.append(starts, size)) / len(selections)
    never, always = int((counts == 0).sum()), int((counts == len(selections)).sum())
    return GroupShares(group, size, a_column, tuple(means.round(4).tolist()), never, always)

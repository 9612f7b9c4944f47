"""Sums, over contributions, of float32 entries times a factor, in float64, at their places in a flat model.

Contributions wait until they have `_WAITING` entries together. Then they are added part by part of the model, so that
a part's sums stay in the processor's cache: contributions of the whole model one after the other, and those of
sub-models as one product. With d over those that wait, f their factors, x their blocks of entries, one a row, and P
having a 1 where block j of the part is the i-th that d sent, it is ::

    sum over d of f(d) transposed(P(d)) x(d)

a sparse matrix times a dense one: for each block sent one position is read, and the block is added in one go. Where
blocks have one entry, the matrix has the entries and the vector the factors.

Contributions wait in the order in which they came, and how many wait together depends on their sizes alone, so equal
contributions in an equal order give equal bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from server.aggregation.flat_model import FlatModel, Part, Placement, Span

_WAITING = 2**20
"""Entries, unless one contribution has more: 4 MB as float32, and at most twice that as float64 while they are added."""
_TOGETHER = 2**14
"""Entries of whole models done together, so that products are still in the cache when they are added."""

Values = NDArray[np.float32]


class FlatSums:
    """Sums, from 0, of all entries of a flat model."""

    def __init__(self, flat: FlatModel) -> None:
        self._flat = flat
        self._sums = np.zeros(flat.size)
        self._whole: list[tuple[Values, float]] = []
        self._cut: list[tuple[tuple[Span, ...], Values, float]] = []
        self._entries = 0

    def add(self, placement: Placement, values: Values, factor: float) -> None:
        """Add `factor` times the placed values, which must not change any more."""
        if self._entries + len(values) > _WAITING:
            self._add_waiting()
        if placement.spans is None:
            self._whole.append((values, factor))
        else:
            self._cut.append((placement.spans, values, factor))
        self._entries += len(values)

    def total(self) -> NDArray[np.float64]:
        """The sums of all that was added so far."""
        self._add_waiting()
        return self._sums

    def _add_waiting(self) -> None:
        if self._whole:
            self._add_whole()
        if self._cut:
            factors = np.array([factor for _, _, factor in self._cut])
            for number, part in enumerate(self._flat.parts):
                spans = [spans[number] for spans, _, _ in self._cut]
                sent = [values[span.sent] for span, (_, values, _) in zip(spans, self._cut, strict=True)]
                _add_part(self._sums[part.full], part, spans, sent, factors)
        self._whole, self._cut, self._entries = [], [], 0

    def _add_whole(self) -> None:
        products = np.empty(_TOGETHER)
        for start in range(0, self._flat.size, _TOGETHER):
            sums = self._sums[start : start + _TOGETHER]
            times = products[: len(sums)]
            for values, factor in self._whole:
                np.copyto(times, values[start : start + _TOGETHER])
                np.multiply(times, factor, out=times)
                np.add(sums, times, out=sums)


def _add_part(
    sums: NDArray[np.float64], part: Part, spans: Sequence[Span], sent: Sequence[Values], factors: NDArray[np.float64]
) -> None:
    entries = np.concatenate(sent, dtype=np.float64)
    places = np.concatenate([span.blocks for span in spans])
    counts = [len(span.blocks) for span in spans]
    blocks = len(sums) // part.block
    if part.block == 1:
        ends = np.cumsum([0, *counts], dtype=places.dtype)
        sums += csc_array((entries, places, ends), shape=(blocks, len(spans))) @ factors
    else:
        ends = np.arange(len(places) + 1, dtype=places.dtype)
        placing = csc_array((np.repeat(factors, counts), places, ends), shape=(blocks, len(places)))
        rows = sums.reshape(blocks, part.block)
        rows += placing @ entries.reshape(-1, part.block)

"""Fold a round's counted updates into one mean and one account, one update in memory at a time.

Floating-point sums depend on their order. Updates are folded in the order given, which is that of device ids and not of
arrival, so a round that was interrupted, resent or restarted gives the same bits as one that was not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from server.aggregation.masked_mean import MaskedMean
from server.compute_account import Compute, compute_of
from server.screening import Screened
from wire_protocol.layout import Layout


@dataclass(frozen=True)
class Folded:
    """The mean difference (full float32 arrays by name), weighted by examples, and what the updates cost."""

    mean: dict[str, NDArray[Any]]
    compute: Compute


def fold(layout: Layout, updates: Iterable[Screened]) -> Folded:
    """Fold updates in the order given; memory is that of one update and of two float64 models."""
    mean, compute = MaskedMean(layout), Compute()
    for screened in updates:
        mean.add(screened.sub_model, screened.values, screened.update.examples)
        compute += compute_of(layout, screened.sub_model, screened.update)
    return Folded(mean.mean(), compute)

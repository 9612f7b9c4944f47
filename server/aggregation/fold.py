"""Fold a round's counted updates into what the fleet says and one account, two updates in memory at most.

Floating-point sums depend on their order. Updates are folded in the order given, which is that of device ids and not of
arrival, so a round that was interrupted, resent or restarted gives the same bits as one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from server.aggregation.contribution import Contribution
from server.aggregation.rule import Aggregate, AggregationRule
from server.compute_account import Compute, compute_of
from server.screening import Screened
from wire_protocol.layout import Layout


class CountedUpdates(Protocol):
    """A round's updates, read anew each time they are iterated over."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Screened]: ...


@dataclass(frozen=True)
class Folded:
    """What the rule made of the updates, weighted by examples, and what they cost."""

    aggregate: Aggregate
    compute: Compute


def fold(layout: Layout, updates: CountedUpdates, rule: AggregationRule) -> Folded:
    """Fold updates in the order given; memory is that of two updates and of the rule."""
    accounted = _Accounted(layout, updates)
    return Folded(rule.aggregate(accounted), accounted.compute)


class _Accounted:
    """Contributions from updates; `compute` is the account of the last pass over them."""

    def __init__(self, layout: Layout, updates: CountedUpdates) -> None:
        self._layout = layout
        self._updates = updates
        self.compute = Compute()

    def __len__(self) -> int:
        return len(self._updates)

    def __iter__(self) -> Iterator[Contribution]:
        self.compute = Compute()
        for screened in self._updates:
            self.compute += compute_of(self._layout, screened.sub_model, screened.update)
            yield Contribution(screened.sub_model, screened.values, screened.update.examples)

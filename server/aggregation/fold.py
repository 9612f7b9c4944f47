"""Fold a round's counted updates into what the fleet says and one account, as they come, without keeping them.

Floating-point sums depend on their order. Updates are folded in the order given, which is that of rounds and device ids
and not of arrival, so a round that was interrupted, resent or restarted gives the same bits as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from server.aggregation.contribution import Contribution
from server.aggregation.rule import Aggregate, AggregationRule
from server.compute_account import Compute, compute_of
from server.screening import Screened
from wire_protocol.layout import Layout
from wire_protocol.messages import Update


class CountedUpdates(Protocol):
    """A round's updates, read anew each time they are iterated over."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Screened]: ...


@dataclass(frozen=True)
class Folded:
    """What the rule made of the updates, weighted by examples, and what they cost."""

    aggregate: Aggregate
    compute: Compute


Scale = Callable[[Update], float]
"""How much of its difference an update counts, above 0."""


def as_it_is(_update: Update) -> float:
    """The scale of an update that is not late: 1."""
    return 1.0


def fold(layout: Layout, updates: CountedUpdates, rule: AggregationRule, scale: Scale = as_it_is) -> Folded:
    """Fold updates in the order given; memory is that of the rule, and of what `updates` reads at a time."""
    accounted = _Accounted(layout, updates, scale)
    return Folded(rule.aggregate(accounted), accounted.compute)


class _Accounted:
    """Contributions from updates; `compute` is the account of the last pass over them."""

    def __init__(self, layout: Layout, updates: CountedUpdates, scale: Scale) -> None:
        self._layout = layout
        self._updates = updates
        self._scale = scale
        self.compute = Compute()

    def __len__(self) -> int:
        return len(self._updates)

    def __iter__(self) -> Iterator[Contribution]:
        self.compute = Compute()
        for screened in self._updates:
            self.compute += compute_of(self._layout, screened.sub_model, screened.update)
            update = screened.update
            yield Contribution(screened.sub_model, screened.values, update.examples, self._scale(update))

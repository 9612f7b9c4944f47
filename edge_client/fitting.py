"""How wide a sub-model a device trains: the most Fisher mass that its limits allow. No I/O.

From the smallest sub-model on, blocks of 8 neurons (or what is left of a group) are added, always the block with the
most Fisher mass for its cost, until a limit binds; of the block that goes beyond it as many neurons are taken as still
fit. Which resource is scarce is not known before the end, as costs multiply: so blocks are ordered once by the cost in
each resource, and the order that brings the most mass within all limits wins. Neurons of a group come in the order of
their mass. Without scores, groups grow evenly.

An order does not depend on the limits, and a plan is a stretch of it from its beginning. Therefore a limit that is
raised never lowers the mass of the plan, and no limit is ever exceeded by what `uses` says.
(Greedy by value for cost is Dantzig's rule for knapsacks, 1957.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.cost_model import Columns, Widths
from wire_protocol.errors import require

BLOCK = 8
"""Neurons added at once; products of matrices are fastest at multiples of the processor's vectors."""

Uses = Callable[[Widths], Columns]
"""What widths [n, groups] need of each resource: float64 [n, resources], growing with every width."""


@dataclass(frozen=True)
class Problem:
    """`most` [groups] is the widest allowed, `limits` [resources] how much there is of each resource.

    `scores` are those of each group's neurons (float [group size], not negative); None: groups grow evenly.
    """

    most: NDArray[np.int64]
    limits: NDArray[np.float64]
    uses: Uses
    scores: Sequence[NDArray[Any]] | None = None

    def __post_init__(self) -> None:
        for group, scores in enumerate(self.scores or ()):
            legal = bool(np.isfinite(scores).all()) and float(scores.min(initial=0)) >= 0
            require(legal, f"scores of group {group}", scores.tolist(), "finite and not negative")


@dataclass(frozen=True)
class Fitted:
    """The widths chosen, their Fisher mass (the part of all, 0 to 1), what they use of each resource, and the resource
    that ended the growth, None where `most` did. Not even the smallest fits: `affordable` is false.
    """

    widths: NDArray[np.int64]
    mass: float
    uses: NDArray[np.float64]
    binds: int | None
    affordable: bool = True


def fit(problem: Problem) -> Fitted:
    """The plan for a problem; deterministic."""
    masses = _cumulative_masses(problem)
    smallest = np.minimum(BLOCK, problem.most)
    for row in (problem.most, smallest):
        used, exceeded = _use(problem, row)
        if row is problem.most and exceeded is None:
            return Fitted(row, _mass(masses, row), used, None)
    if exceeded is not None:
        return Fitted(smallest, _mass(masses, smallest), used, exceeded, affordable=False)
    orders: Sequence[int | None] = range(len(problem.limits)) if problem.scores is not None else [None]
    plans = [_longest_stretch(problem, masses, order) for order in orders]
    return max(plans, key=lambda plan: plan.mass)


def _longest_stretch(problem: Problem, masses: Sequence[Columns], order: int | None) -> Fitted:
    """As much of one order of blocks as fits."""
    widths = np.minimum(BLOCK, problem.most)
    for wider in _growth(problem, masses, order):
        if _use(problem, wider)[1] is not None:
            widths, exceeded = _part_of_block(problem, widths, wider)
            return Fitted(widths, _mass(masses, widths), problem.uses(widths[None])[0], exceeded)
        widths = wider
    raise AssertionError("the whole does not fit, so some block must not")


def _growth(problem: Problem, masses: Sequence[Columns], order: int | None) -> Iterator[NDArray[np.int64]]:
    """Ever wider widths, a block at a time, in the order of mass for cost in resource `order` (None: evenly)."""
    widths = np.minimum(BLOCK, problem.most)
    while (open_ := np.flatnonzero(widths < problem.most)).size:
        wider = np.repeat(widths[None], len(open_), axis=0)
        rows = np.arange(len(open_))
        wider[rows, open_] = np.minimum(widths[open_] + BLOCK, problem.most[open_])
        share = widths[open_] / problem.most[open_]
        worth = -share
        if order is not None:
            gains = [masses[g][wider[row, g]] - masses[g][widths[g]] for row, g in enumerate(open_.tolist())]
            cost = problem.uses(wider)[:, order] - problem.uses(widths[None])[0, order]
            worth = np.array(gains) / np.maximum(cost, np.finfo(float).tiny)
        widths = wider[np.lexsort((share, -worth))[0]]
        yield widths


def _part_of_block(
    problem: Problem, widths: NDArray[np.int64], wider: NDArray[np.int64]
) -> tuple[NDArray[np.int64], int]:
    """The widest on the way from `widths`, which fits, to `wider`, which does not, and the limit that ends it."""
    group = int(np.flatnonzero(wider > widths)[0])
    while True:
        following = widths.copy()
        following[group] += 1
        exceeded = _use(problem, following)[1]
        if exceeded is not None:
            return widths, exceeded
        widths = following


def _use(problem: Problem, row: NDArray[np.int64]) -> tuple[NDArray[np.float64], int | None]:
    """What widths use, and the resource they exceed by most, if they exceed one."""
    used = problem.uses(row[None])[0]
    over = np.flatnonzero(used > problem.limits)
    if not over.size:
        return used, None
    ratios = used[over] / np.maximum(problem.limits[over], np.finfo(float).tiny)
    return used, int(over[np.argmax(ratios)])


def _cumulative_masses(problem: Problem) -> list[Columns]:
    """For each group, the part of all Fisher mass that its best 0, 1, 2, ... neurons hold: [size + 1]."""
    if problem.scores is None:
        sizes = problem.most
        return [np.arange(size + 1) / size / len(sizes) for size in sizes]
    total = sum(float(np.sum(scores, dtype=np.float64)) for scores in problem.scores) or 1.0
    ordered = [np.sort(np.asarray(scores, dtype=np.float64))[::-1] for scores in problem.scores]
    return [np.concatenate([[0.0], np.cumsum(scores)]) / total for scores in ordered]


def _mass(masses: Sequence[Columns], widths: NDArray[np.int64]) -> float:
    return float(sum(mass[width] for mass, width in zip(masses, widths, strict=True)))

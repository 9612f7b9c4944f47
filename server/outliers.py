"""Outliers among a round's counted updates, by robust distance. Pure.

Two things are asked of an update, each by the modified z-score of Iglewicz and Hoaglin 1993, "How to Detect and Handle
Outliers", which has the median for the mean and 1.4826 times the median absolute deviation (MAD) for the deviation:

- Is it too long? The logarithm of its L2 norm lies more than `MOST_DEVIATIONS` above the median of those that train
  about as much of the model as it (a class for each power of two of the share), and its norm is `LARGEST_FACTOR` times
  the median or more. A short update moves the model little and is left alone.
- Does all of it point away from where the others go? In each weight matrix its cosine is taken to the sum of all
  others, each at length 1, at the entries that it trains. All these cosines are negative, and their z-scores, cut off
  at `LARGEST_SCORE` to either side (winsorised: Tukey 1962, "The Future of Data Analysis"), are on average more than
  `MOST_BACKWARDS` below 0. A score counts where the median is positive, and else is 0: at the end of training updates
  add up to little, each device pulls its own way, and the others go nowhere. Munoz-Gonzalez, Co and Lupu 2019,
  "Byzantine-Robust Federated Machine Learning through Adaptive Model Averaging", take the cosine of the whole update.

A device with labels of its own differs by the output's weights, and goes with the others in hidden ones; a flipped sign
turns all of them. So one matrix, however far off, is not enough, and honest fleets with unequal data lose a third of
what the whole update's cosine takes from them (`benchmarks.outlier_rules`). At length 1 every device has the same say,
whatever it multiplies its numbers by. A coordinate-wise median in place of the sum is 0 nearly everywhere where devices
send few of their values. Fewer than `FEWEST` updates say nothing about each other.

At least a quarter of the updates are kept, as a median is never far from itself. Sums are made in the order given, so
equal updates in an equal order give equal verdicts. Memory is 8 bytes an entry of the model.

In a private run all this is of noised values: what is computed from them costs no further privacy (Dwork and Roth 2014,
"The Algorithmic Foundations of Differential Privacy", proposition 2.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log, log2
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.aggregation.flat_model import FlatModel, Placement
from server.aggregation.flat_sums import FlatSums
from server.aggregation.fold import CountedUpdates
from server.aggregation.norm_bound import l2_norm
from server.screening import Screened
from wire_protocol.flat_arrays import split
from wire_protocol.layout import Layout

FEWEST = 5
"""Updates that are compared at least."""
MOST_DEVIATIONS = 3.5
"""What Iglewicz and Hoaglin recommend."""
LARGEST_SCORE, MOST_BACKWARDS = 4.0, 3.0
"""Of a weight matrix, and of all on average."""
LARGEST_FACTOR = 5.0
"""Times the median, up to which a norm is never too long: devices that know their data send little, and one that still
has to learn three or four times as much."""
_DEVIATION = 1.4826
"""Of a normal distribution, in MADs."""
_LEAST_DEVIATION = 1e-9
"""Below which differences are rounding."""
_LEAST_LENGTHS = 1e-7
"""The same of the lengths of two parts of updates at length 1, multiplied."""


@dataclass(frozen=True)
class Outlier:
    """The update at this place among the round's, from 0, is to be left out; `reason` is fit for its operator."""

    place: int
    reason: str


@dataclass(frozen=True)
class Kept:
    """Updates without those at some places, read anew each time they are iterated over."""

    updates: CountedUpdates
    left_out: frozenset[int]

    def __len__(self) -> int:
        return len(self.updates) - len(self.left_out)

    def __iter__(self) -> Iterator[Screened]:
        return (update for place, update in enumerate(self.updates) if place not in self.left_out)


def find_outliers(layout: Layout, updates: CountedUpdates) -> tuple[Outlier, ...]:
    """The outliers by place; reads the updates twice."""
    if len(updates) < FEWEST:
        return ()
    flat, matrices = FlatModel(layout), _matrices(layout)
    sums, norms, classes = FlatSums(flat), [], []
    for one in updates:
        placement = flat.place(one.sub_model)
        values = flat.flatten(placement, one.values)
        norms.append(l2_norm(one.values))
        classes.append(round(log2(flat.size / len(values))))
        if norms[-1] > 0:
            sums.add(*flat.entries(placement, one.values), 1 / norms[-1])
    long = _too_long(norms, classes)
    cosines = [_cosines(flat, sums.total, one, norm, matrices) for one, norm in zip(updates, norms, strict=True)]
    rest = [place for place in range(len(norms)) if place not in long]
    found = long | _pointing_away(np.array([cosines[place] for place in rest]), rest)
    return tuple(Outlier(place, found[place]) for place in sorted(found))


def _matrices(layout: Layout) -> frozenset[str]:
    """The weights whose direction is looked at: vectors, biases above all, are short and follow labels."""
    found = frozenset(one.name for one in layout.parameters if len(one.shape) > 1)
    return found or frozenset(one.name for one in layout.parameters)


def _too_long(norms: Sequence[float], classes: Sequence[int]) -> dict[int, str]:
    found = {}
    for kind in sorted(set(classes)):
        places = [place for place, other in enumerate(classes) if other == kind and norms[place] > 0]
        if len(places) < FEWEST:
            continue
        median, deviation = _centre([log(norms[place]) for place in places])
        most = max(median + MOST_DEVIATIONS * deviation, median + log(LARGEST_FACTOR))
        for place in places:
            if log(norms[place]) > most:
                found[place] = (
                    f"outlier: its norm {norms[place]:.3g} is {norms[place] / exp(median):.3g} times the median of "
                    f"{len(places)} updates of its size, expected at most {exp(most - median):.3g} times"
                )
    return found


def _pointing_away(cosines: NDArray[np.float64], places: Sequence[int]) -> dict[int, str]:
    """`cosines` has a row for each update and a column for each matrix, 0 where the update leaves it as it is."""
    if len(cosines) < FEWEST:
        return {}
    medians, deviations = np.transpose([_centre(column) for column in cosines.T])
    scores = np.clip((cosines - medians) / np.maximum(deviations, _LEAST_DEVIATION), -LARGEST_SCORE, LARGEST_SCORE)
    scores[:, medians <= 0] = 0
    found = {}
    for place, row, scored in zip(places, cosines, scores, strict=True):
        turned = scored[row != 0]
        if len(turned) and row.max() <= 0 and fmean(turned) < -MOST_BACKWARDS:
            found[place] = (
                f"outlier: all of it points away from the others' updates (cosines {row.min():.2f} to {row.max():.2f} "
                f"in {len(turned)} weight matrices, on average {-fmean(turned):.2g} deviations below the median of "
                f"{len(cosines)} updates, expected at most {MOST_BACKWARDS:g})"
            )
    return found


def _centre(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """The median, and the deviation by the median absolute deviation."""
    median = float(np.median(values))
    return median, _DEVIATION * float(np.median(np.abs(np.asarray(values) - median)))


def _cosines(
    flat: FlatModel, sums: NDArray[np.float64], one: Screened, norm: float, matrices: frozenset[str]
) -> list[float]:
    """To the sum of the others at unit length, of each matrix; 0 where either is 0."""
    if norm == 0:
        return [0.0] * len(matrices)
    placement = flat.place(one.sub_model)
    own = flat.flatten(placement, one.values) / norm
    others = _entries(sums, placement) - own
    shapes = dict(placement.shapes)
    pairs = zip(split(own, shapes).items(), split(others, shapes).values(), strict=True)
    return [_cosine(mine, theirs) for (name, mine), theirs in pairs if name in matrices]


def _cosine(mine: NDArray[Any], theirs: NDArray[Any]) -> float:
    lengths = float(np.sqrt(np.square(mine).sum(dtype=np.float64) * np.square(theirs).sum()))
    return float((mine * theirs).sum()) / lengths if lengths > _LEAST_LENGTHS else 0.0


def _entries(sums: NDArray[np.float64], placement: Placement) -> NDArray[np.float64]:
    return sums if placement.positions is None else sums[placement.positions]

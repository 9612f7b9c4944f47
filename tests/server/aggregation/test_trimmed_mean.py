from collections.abc import Callable
from math import ceil

import numpy as np
import pytest

from server.aggregation.contribution import Contribution
from server.aggregation.masked_mean import WeightedMean
from server.aggregation.trimmed_mean import TrimmedMean, trimmed
from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.sub_model import SubModel

LAYOUT = Layout((Parameter("w", (2,), (CutAxis(0, "g"),)),), (NeuronGroup("g", 2),))


def test_hand_computed_over_those_who_trained_each_coordinate() -> None:
    """Coordinate 0: 1, 2, 3, 4, 100 without 1 and 100: 3. Coordinate 1: 7 and 9, too few to trim: 8."""
    fleet = [
        Contribution(SubModel({"g": np.array([0, 1])}), {"w": np.array([4, 7], np.float32)}, 5),
        Contribution(SubModel({"g": np.array([0])}), {"w": np.array([100], np.float32)}, 1),
        Contribution(SubModel({"g": np.array([0, 1])}), {"w": np.array([2, 9], np.float32)}, 1),
        Contribution(SubModel({"g": np.array([0])}), {"w": np.array([1], np.float32)}, 1),
        Contribution(SubModel({"g": np.array([0])}), {"w": np.array([3], np.float32)}, 1),
    ]
    assert TrimmedMean(LAYOUT, 0.2).aggregate(fleet).difference["w"].tolist() == [3, 8]


@pytest.mark.parametrize(
    ("trim", "count", "left_out"),
    [(0, 5, 0), (0.1, 10, 1), (0.1, 11, 2), (0.1, 1, 0), (0.1, 2, 0), (0.1, 3, 1), (0.07, 100, 7), (0.29, 100, 29),
     (0.3, 10, 3), (0.49, 5, 2), (0.49, 4, 1)],
)  # fmt: skip
def test_how_many_are_left_out_at_either_end(trim: float, count: int, left_out: int) -> None:
    assert trimmed(trim, count) == left_out


def test_trimming_nothing_is_the_mean_of_equals(cut_layout: Layout, make_fleet: Callable) -> None:
    fleet = [Contribution(one.sub_model, one.values, 1) for one in make_fleet(30)]
    plain, found = WeightedMean(cut_layout).aggregate(fleet), TrimmedMean(cut_layout, 0).aggregate(fleet)
    for name, array in found.difference.items():
        np.testing.assert_allclose(array, plain.difference[name], rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(found.trained[name], plain.trained[name])


@pytest.mark.parametrize("budget_bytes", [1, 500, 10**6])
def test_equals_the_plain_loop_whatever_the_memory(
    cut_layout: Layout, make_fleet: Callable, by_hand: Callable, budget_bytes: int
) -> None:
    def statistic(values: list[float], weights: list[float]) -> float:
        left_out = min(ceil(0.25 * len(values)), (len(values) - 1) // 2)
        return float(np.mean(sorted(values)[left_out : len(values) - left_out]))

    fleet = make_fleet(9)
    found = TrimmedMean(cut_layout, 0.25, budget_bytes).aggregate(fleet).difference
    for name, array in by_hand(fleet, statistic).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("trim", [-0.1, 0.5, float("nan")])
def test_refuses_a_fraction_out_of_range(trim: float) -> None:
    with pytest.raises(InvalidValueError, match=r"trim must be at least 0 and below 0\.5"):
        TrimmedMean(LAYOUT, trim)

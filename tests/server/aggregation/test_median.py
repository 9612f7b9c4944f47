from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.aggregation.contribution import Contribution
from server.aggregation.median import Median
from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.sub_model import SubModel

LAYOUT = Layout((Parameter("w", (3,), (CutAxis(0, "g"),)),), (NeuronGroup("g", 3),))


def sent(*values: float, kept: tuple[int, ...] = (0, 1, 2)) -> Contribution:
    return Contribution(SubModel({"g": np.array(kept)}), {"w": np.array(values, np.float32)}, 1)


def test_hand_computed_over_those_who_trained_each_coordinate() -> None:
    fleet = [sent(1, 10, kept=(0, 1)), sent(-5, 30, kept=(0, 1)), sent(2, kept=(0,))]
    aggregate = Median(LAYOUT).aggregate(fleet)
    assert aggregate.difference["w"].tolist() == [1, 20, 0]
    assert aggregate.trained["w"].tolist() == [True, True, False]


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=12))
def test_is_bounded_by_extremes_and_is_the_textbooks(values: list[float]) -> None:
    found = float(Median(LAYOUT).aggregate([sent(value, value, value) for value in values]).difference["w"][1])
    assert min(values) <= found <= max(values)
    assert found == np.float32(median(values))


@pytest.mark.parametrize("budget_bytes", [1, 300, 10**6])
def test_equals_the_plain_loop_whatever_the_memory(
    cut_layout: Layout, make_fleet: Callable, by_hand: Callable, budget_bytes: int
) -> None:
    fleet = make_fleet(8)
    found = Median(cut_layout, budget_bytes).aggregate(fleet).difference
    for name, array in by_hand(fleet, lambda values, _: median(values)).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("budget_bytes", "passes"), [(10**6, 1), (4 * 2 * 2, 2), (1, 3)])
def test_reads_once_for_each_budget_of_memory(budget_bytes: int, passes: int) -> None:
    class Counted(list[Contribution]):
        passes = 0

        def __iter__(self) -> Iterator[Contribution]:
            self.passes += 1
            return super().__iter__()

    fleet = Counted([sent(1, 2, 3), sent(4, 5, 6)])
    assert Median(LAYOUT, budget_bytes).aggregate(fleet).difference["w"].tolist() == [2.5, 3.5, 4.5]
    assert fleet.passes == passes


def test_refuses_no_memory() -> None:
    with pytest.raises(InvalidValueError, match="budget_bytes must be above 0, got 0"):
        Median(LAYOUT, 0).aggregate([sent(1, 2, 3)])

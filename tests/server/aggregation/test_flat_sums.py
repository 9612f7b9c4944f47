from collections.abc import Callable

import numpy as np
import pytest

from server.aggregation import flat_model, flat_sums
from server.aggregation.flat_model import FlatModel
from server.aggregation.flat_sums import FlatSums
from wire_protocol.layout import Layout


@pytest.mark.parametrize("shortest_block", [2, 6, 1000])
@pytest.mark.parametrize("together", [1, 5, 7, 2**14])
def test_sums_are_those_of_the_plain_form_bit_for_bit(
    cut_layout: Layout, make_fleet: Callable, monkeypatch: pytest.MonkeyPatch, shortest_block: int, together: int
) -> None:
    """In blocks or not, and wherever what is done together ends; a block may be longer than that."""
    monkeypatch.setattr(flat_model, "_SHORTEST_BLOCK", shortest_block)
    monkeypatch.setattr(flat_model, "_SMALLEST_IN_BLOCKS", 1)
    monkeypatch.setattr(flat_sums, "_TOGETHER", together)
    flat = FlatModel(cut_layout)
    assert any(part.block > 1 for part in flat.parts) == (shortest_block < 1000)
    sums, expected = FlatSums(flat), np.zeros(flat.size)
    for one in make_fleet(20) + make_fleet(2, full=True) + make_fleet(3, seed=1):
        placement = flat.place(one.sub_model)
        values = flat.flatten(placement, one.values)
        sums.add(placement, values, one.weight / 3)
        expected[flat.positions(placement)] += values.astype(np.float64) * (one.weight / 3)
    np.testing.assert_array_equal(sums.total, expected)

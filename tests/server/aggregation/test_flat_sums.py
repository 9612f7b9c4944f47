from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from server.aggregation import flat_sums
from server.aggregation.flat_model import FlatModel
from server.aggregation.flat_sums import FlatSums
from wire_protocol.layout import Layout


@pytest.mark.parametrize("together", [1, 5, 7, 2**15])
def test_sums_are_those_of_the_plain_form_bit_for_bit(
    cut_layout: Layout, make_fleet: Callable, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """Wherever what is done together ends, in the order in which it came, and with one sub-model several times."""
    monkeypatch.setattr(flat_sums, "_TOGETHER", together)
    flat = FlatModel(cut_layout)
    sums, expected = FlatSums(flat), np.zeros(flat.size)
    others, full = make_fleet(20), make_fleet(2, full=True)
    again = [replace(others[0], weight=weight) for weight in (3, 700, 1, 90)] + others[:2] * 2 + [others[1]] * 2
    for one in others + again + full + make_fleet(3, seed=1) + [others[0]] * 2 + full + [others[1]] * 3:
        placement = flat.place(one.sub_model)
        values = flat.flatten(placement, one.values)
        sums.add(placement.positions, values, one.weight / 3)
        where = slice(None) if placement.positions is None else placement.positions
        expected[where] += values.astype(np.float64) * (one.weight / 3)
        if one is others[5]:
            np.testing.assert_array_equal(sums.total, expected)
    np.testing.assert_array_equal(sums.total, expected)

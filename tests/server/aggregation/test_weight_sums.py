from collections.abc import Callable

import numpy as np

from server.aggregation.flat_model import FlatModel
from server.aggregation.weight_sums import WeightSums, split_shape
from wire_protocol.layout import Layout
from wire_protocol.sub_model import positions


def test_sums_are_exact_at_every_coordinate_whatever_their_number(cut_layout: Layout, make_fleet: Callable) -> None:
    """Weights near 2^44: a float32, or a sum that is rounded, would show."""
    for devices in (0, 1, 31, 32, 33, 70):
        flat, fleet = FlatModel(cut_layout), make_fleet(devices, seed=devices)
        sums = WeightSums(flat)
        weights = [2**44 + one.weight for one in fleet]
        for one, weight in zip(fleet, weights, strict=True):
            sums.add(flat.place(one.sub_model), weight)
        for parameter in cut_layout.parameters:
            expected = np.zeros(parameter.shape, dtype=np.int64)
            for one, weight in zip(fleet, weights, strict=True):
                expected[positions(parameter, one.sub_model)] += weight
            shape = split_shape(parameter)
            found = np.broadcast_to(sums.behind(parameter), shape).reshape(parameter.shape)
            np.testing.assert_array_equal(found, expected)


def test_it_can_be_asked_before_the_end(cut_layout: Layout, make_fleet: Callable) -> None:
    flat = FlatModel(cut_layout)
    placement, sums = flat.place(make_fleet(1, full=True)[0].sub_model), WeightSums(flat)
    for times in range(1, 4):
        sums.add(placement, 5)
        assert sums.behind(cut_layout.parameters[0]).max() == 5 * times

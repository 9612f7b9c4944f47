from collections.abc import Callable

import numpy as np
import pytest

from server.aggregation import flat_model
from server.aggregation.flat_model import FlatModel
from wire_protocol.flat_arrays import FlatArrays
from wire_protocol.layout import Layout
from wire_protocol.sub_model import gather


def test_entries_stand_where_gather_takes_them_from(cut_layout: Layout, make_fleet: Callable) -> None:
    flat = FlatModel(cut_layout)
    vector = np.arange(flat.size, dtype=np.float32)
    for one in make_fleet(20) + make_fleet(1, full=True):
        placement = flat.place(one.sub_model)
        taken = flat.flatten(placement, gather(cut_layout, one.sub_model, flat.split(vector)))
        np.testing.assert_array_equal(taken, vector if placement.positions is None else vector[placement.positions])


def test_arrays_that_lie_end_to_end_are_not_copied(cut_layout: Layout, make_fleet: Callable) -> None:
    flat, one = FlatModel(cut_layout), make_fleet(1)[0]
    placement = flat.place(one.sub_model)
    vector = flat.flatten(placement, one.values)
    assert flat.flatten(placement, FlatArrays(vector, placement.shapes)) is vector


def test_only_the_whole_model_is_whole(make_fleet: Callable, cut_layout: Layout) -> None:
    flat = FlatModel(cut_layout)
    assert flat.place(make_fleet(1, full=True)[0].sub_model).positions is None
    assert flat.place(make_fleet(1)[0].sub_model).positions is not None


def test_selections_are_remembered_within_a_bound_until_they_are_out_of_use(
    make_fleet: Callable, cut_layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (one.sub_model for one in make_fleet(3))
    flat = FlatModel(cut_layout)
    sizes = [len(flat.place(one).positions) for one in (first, second, third)]
    room = sizes[0] + max(sizes[1:])
    monkeypatch.setattr(flat_model, "_REMEMBERED_POSITIONS", room)
    flat = FlatModel(cut_layout)
    placed = [flat.place(one) for one in (first, second, third)]
    assert flat.place(first) is placed[0]
    assert flat.place(second) is placed[1]
    assert flat.place(third) is not placed[2]
    flat.forget_unused()
    assert flat.place(first) is placed[0]
    flat.forget_unused()
    placed_again = flat.place(third)
    assert flat.place(third) is placed_again
    assert flat.place(second) is not placed[1]

import numpy as np
import pytest

from server.kept_neurons import kept_shares
from wire_protocol.layout import Layout
from wire_protocol.sub_model import SubModel, to_bitmaps


def test_shares_are_those_of_devices(layout: Layout, keeping) -> None:
    selections = [to_bitmaps(layout, keeping(*kept)) for kept in ((0, 1), (1, 3), (1,), (1, 3))]
    (hidden,) = kept_shares(layout.group_sizes, selections)
    assert (hidden.group, hidden.size, hidden.neurons_a_column) == ("hidden", 4, 1)
    assert hidden.shares == (0.25, 1.0, 0.0, 0.5)
    assert (hidden.never, hidden.always) == (1, 1)
    assert kept_shares(layout.group_sizes, []) == ()


@pytest.mark.parametrize("size", [1, 7, 64, 65, 130, 1000])
def test_many_neurons_share_columns(size: int) -> None:
    rng = np.random.default_rng(size)
    kept = rng.random((5, size)) < 0.4
    selections = [{"g": np.packbits(row).tobytes()} for row in kept]
    (group,) = kept_shares({"g": size}, selections, columns=16)
    width = group.neurons_a_column
    expected = [kept[:, start : start + width].mean() for start in range(0, size, width)]
    assert len(group.shares) <= 16
    assert group.shares == pytest.approx(expected, abs=1e-4)
    assert group.never == (~kept.any(axis=0)).sum()


def test_bitmaps_are_those_of_the_wire(layout: Layout) -> None:
    everything = SubModel({"hidden": np.arange(4)})
    assert kept_shares(layout.group_sizes, [to_bitmaps(layout, everything)])[0].shares == (1.0,) * 4

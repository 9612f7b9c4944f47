from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wire_protocol import sub_model as sm
from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter

LAYOUT = Layout(
    (
        Parameter("conv.weight", (3, 1, 2), (CutAxis(0, "conv", produces=True),), uses_per_example=5),
        Parameter("fc.weight", (4, 6), (CutAxis(0, "fc", produces=True), CutAxis(1, "conv", block=2)), 1),
        Parameter("fc.square", (4, 4), (CutAxis(0, "fc", produces=True), CutAxis(1, "fc")), 1),
        Parameter("out.bias", (2,)),
    ),
    (NeuronGroup("conv", 3), NeuronGroup("fc", 4)),
)
KEPT = sm.SubModel({"conv": np.array([0, 2]), "fc": np.array([1])})


def full_arrays() -> dict[str, np.ndarray]:
    return {
        parameter.name: np.arange(np.prod(parameter.shape), dtype=np.float32).reshape(parameter.shape)
        for parameter in LAYOUT.parameters
    }


def test_gather_keeps_whole_blocks_along_every_cut() -> None:
    gathered = sm.gather(LAYOUT, KEPT, full_arrays())
    assert gathered["conv.weight"].tolist() == [[[0, 1]], [[4, 5]]]
    assert gathered["fc.weight"].tolist() == [[6, 7, 10, 11]]
    assert gathered["fc.square"].tolist() == [[5]]
    assert gathered["out.bias"].tolist() == [0, 1]
    assert {name: array.shape for name, array in gathered.items()} == sm.sub_shapes(LAYOUT, KEPT.widths)


def test_gather_shares_no_memory_and_is_contiguous() -> None:
    full = full_arrays()
    for sub_model in (KEPT, sm.full_sub_model(LAYOUT)):
        for name, array in sm.gather(LAYOUT, sub_model, full).items():
            assert array.flags.c_contiguous
            assert not np.shares_memory(array, full[name])


def test_adding_at_positions_undoes_gather() -> None:
    full = full_arrays()
    sums = {name: np.zeros_like(array) for name, array in full.items()}
    for parameter in LAYOUT.parameters:
        sums[parameter.name][sm.positions(parameter, KEPT)] += sm.gather(LAYOUT, KEPT, full)[parameter.name]
    assert sums["fc.weight"].tolist() == [[0] * 6, [6, 7, 0, 0, 10, 11], [0] * 6, [0] * 6]
    assert np.flatnonzero(sums["fc.square"]).tolist() == [5]


def test_the_full_sub_model_keeps_everything() -> None:
    gathered = sm.gather(LAYOUT, sm.full_sub_model(LAYOUT), full_arrays())
    for name, array in full_arrays().items():
        np.testing.assert_array_equal(gathered[name], array)


def test_counts_follow_the_widths() -> None:
    assert sm.element_count(LAYOUT, KEPT.widths) == 4 + 4 + 1 + 2
    assert sm.multiply_accumulates(LAYOUT, KEPT.widths) == 5 * 4 + 4 + 1
    assert sm.element_count(LAYOUT, LAYOUT.group_sizes) == LAYOUT.element_count


@pytest.mark.parametrize(("keep", "widths"), [(1.0, (3, 4)), (0.5, (2, 2)), (0.01, (1, 1)), (0.4, (1, 2))])
def test_widths_at_rounds_and_keeps_at_least_one(keep: float, widths: tuple[int, int]) -> None:
    assert tuple(sm.widths_at(LAYOUT, keep).values()) == widths


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_refused(keep: float) -> None:
    with pytest.raises(InvalidValueError, match="keep must be above 0 and at most 1"):
        sm.widths_at(LAYOUT, keep)


@pytest.mark.parametrize("kept", [[], [1, 1], [2, 1], [-1, 0]])
def test_kept_neurons_are_sorted_distinct_and_present(kept: list[int]) -> None:
    with pytest.raises(InvalidValueError, match="kept neurons of fc"):
        sm.SubModel({"fc": np.array(kept, dtype=np.int64)})


@given(
    masks=st.lists(
        hnp.arrays(np.bool_, st.integers(1, 40)).filter(lambda mask: bool(mask.any())), min_size=1, max_size=3
    )
)
@settings(max_examples=150, deadline=None)
def test_bitmaps_round_trip(masks: list[np.ndarray]) -> None:
    groups = tuple(NeuronGroup(f"g{number}", len(mask)) for number, mask in enumerate(masks))
    layout = Layout((Parameter("w", (1,)),), groups)
    sub_model = sm.SubModel({group.name: np.flatnonzero(mask) for group, mask in zip(groups, masks, strict=True)})
    read = sm.from_bitmaps(layout, sm.to_bitmaps(layout, sub_model))
    assert {name: kept.tolist() for name, kept in read.kept.items()} == {
        name: kept.tolist() for name, kept in sub_model.kept.items()
    }


def test_the_first_neuron_is_the_most_significant_bit() -> None:
    layout = Layout((Parameter("w", (1,)),), (NeuronGroup("g", 10),))
    assert sm.to_bitmaps(layout, sm.SubModel({"g": np.array([0, 7, 9])})) == {"g": b"\x81\x40"}


@pytest.mark.parametrize(
    ("bitmaps", "problem"),
    [
        ({"conv": b"\x80"}, "name groups"),
        ({"conv": b"\x80", "fc": b"\x80", "other": b"\x80"}, "name groups"),
        ({"conv": b"", "fc": b"\x80"}, "bitmap of conv has 0 bytes, expected 1"),
        ({"conv": b"\x80\x00", "fc": b"\x80"}, "bitmap of conv has 2 bytes, expected 1"),
        ({"conv": b"\x10", "fc": b"\x80"}, "bitmap of conv sets bits past its 3 neurons"),
        ({"conv": b"\x80", "fc": b"\x00"}, "bitmap of fc keeps no neuron"),
    ],
)
def test_bitmaps_are_read_strictly(bitmaps: dict[str, bytes], problem: str) -> None:
    with pytest.raises(ProtocolError, match=problem):
        sm.from_bitmaps(LAYOUT, bitmaps)


@given(bitmaps=st.fixed_dictionaries({"conv": st.binary(max_size=2), "fc": st.binary(max_size=2)}))
@settings(max_examples=200, deadline=None)
def test_reading_bitmaps_is_total(bitmaps: dict[str, bytes]) -> None:
    try:
        read = sm.from_bitmaps(LAYOUT, bitmaps)
    except ProtocolError:
        return
    assert sm.to_bitmaps(LAYOUT, read) == bitmaps

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.aggregation.contribution import Contribution
from server.aggregation.flat_model import FlatModel
from server.aggregation.masked_mean import MaskedMean
from wire_protocol.errors import InvalidValueError
from wire_protocol.flat_arrays import FlatArrays, SparseArrays
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.sub_model import SubModel, full_sub_model, gather, positions, sub_shapes

LAYOUT = Layout(
    parameters=(
        Parameter("conv", (4, 3), (CutAxis(0, "channels"), CutAxis(1, "inputs"))),
        Parameter("dense", (2, 8), (CutAxis(1, "channels", block=2),)),
        Parameter("bias", (2,)),
    ),
    groups=(NeuronGroup("channels", 4), NeuronGroup("inputs", 3)),
)


def sub_model(channels: list[int], inputs: list[int]) -> SubModel:
    return SubModel({"channels": np.array(channels), "inputs": np.array(inputs)})


def constant(kept: SubModel, value: float) -> dict[str, np.ndarray]:
    full = {p.name: np.full(p.shape, value, dtype=np.float32) for p in LAYOUT.parameters}
    return gather(LAYOUT, kept, full)


def test_disjoint_masks_give_each_coordinate_the_mean_of_those_that_trained_it() -> None:
    first, second = sub_model([0, 2], [0, 1, 2]), sub_model([1], [0, 1, 2])
    mean = MaskedMean(FlatModel(LAYOUT))
    mean.add(Contribution(first, constant(first, 2.0), weight=1))
    mean.add(Contribution(first, constant(first, 4.0), weight=3))
    mean.add(Contribution(second, constant(second, -1.0), weight=5))
    result = mean.mean().difference
    np.testing.assert_array_equal(result["conv"], [[3.5] * 3, [-1] * 3, [3.5] * 3, [0] * 3])
    np.testing.assert_array_equal(result["dense"], [[3.5, 3.5, -1, -1, 3.5, 3.5, 0, 0]] * 2)
    np.testing.assert_array_equal(result["bias"], np.full(2, (1 * 2 + 3 * 4 - 5) / 9, dtype=np.float32))


def test_nobody_leaves_everything_untouched() -> None:
    for array in MaskedMean(FlatModel(LAYOUT)).mean().difference.values():
        np.testing.assert_array_equal(array, np.zeros_like(array))
        assert array.dtype == np.float32


def test_full_sub_models_give_the_weighted_average() -> None:
    generator = np.random.default_rng(0)
    whole = full_sub_model(LAYOUT)
    updates = [{p.name: generator.normal(size=p.shape).astype(np.float32) for p in LAYOUT.parameters} for _ in range(3)]
    mean = MaskedMean(FlatModel(LAYOUT))
    for update, weight in zip(updates, (1, 2, 3), strict=True):
        mean.add(Contribution(whole, update, weight))
    for name, array in mean.mean().difference.items():
        expected = np.average([update[name].astype(np.float64) for update in updates], axis=0, weights=(1, 2, 3))
        np.testing.assert_allclose(array, expected, rtol=1e-6)
    assert len(mean) == 3


kept_neurons = st.tuples(
    st.sets(st.integers(0, 3), min_size=1).map(sorted), st.sets(st.integers(0, 2), min_size=1).map(sorted)
)


@given(st.lists(st.tuples(kept_neurons, st.integers(1, 1000), st.integers(-64, 64)), max_size=6), st.randoms())
def test_equals_the_plain_loop_whatever_the_order(updates: list, random: object) -> None:
    shuffled = list(updates)
    random.shuffle(shuffled)
    mean = MaskedMean(FlatModel(LAYOUT))
    for kept, weight, value in shuffled:
        mean.add(Contribution(sub_model(*kept), constant(sub_model(*kept), value / 8), weight))
    result = mean.mean().difference
    for parameter in LAYOUT.parameters:
        expected = np.zeros(parameter.shape)
        for index in np.ndindex(*parameter.shape):
            here = [(w, v / 8) for kept, w, v in updates if holds(parameter, sub_model(*kept), index)]
            if here:
                expected[index] = sum(w * v for w, v in here) / sum(w for w, _ in here)
        np.testing.assert_array_equal(result[parameter.name], expected.astype(np.float32))


def holds(parameter: Parameter, kept: SubModel, index: tuple[int, ...]) -> bool:
    mask = np.zeros(parameter.shape, dtype=bool)
    mask[positions(parameter, kept)] = True
    return bool(mask[index])


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_refuses_a_weight_out_of_range(weight: float) -> None:
    whole = full_sub_model(LAYOUT)
    with pytest.raises(InvalidValueError, match="weight must be above 0 and finite"):
        Contribution(whole, constant(whole, 1.0), weight)


def test_a_wrong_shape_adds_nothing_at_all() -> None:
    whole = full_sub_model(LAYOUT)
    mean = MaskedMean(FlatModel(LAYOUT))
    with pytest.raises(InvalidValueError, match="shape of bias"):
        mean.add(Contribution(whole, constant(whole, 1.0) | {"bias": np.ones(3, dtype=np.float32)}, 1))
    assert len(mean) == 0
    assert not mean.mean().difference["conv"].any()


@pytest.mark.parametrize("channels", [[0, 2], [0, 1, 2, 3]])
def test_what_a_device_left_out_is_a_0_that_it_trained(channels: list[int]) -> None:
    """Bit for bit what all of its entries give, of a part of the model and of the whole, alone and among others."""
    kept = sub_model(channels, [0, 1, 2])
    shapes = sub_shapes(LAYOUT, kept.widths)
    size = sum(map(prod, shapes.values()))
    means = []
    for make in (lambda arrays: arrays, lambda arrays: FlatArrays(arrays.vector, arrays.shapes)):
        generator, mean = np.random.default_rng(0), MaskedMean(FlatModel(LAYOUT))
        for number in range(9):
            places = np.sort(generator.choice(size, number % 4, replace=False)).astype(np.int32)
            sent = SparseArrays(places, generator.normal(size=len(places)).astype(np.float32), shapes)
            mean.add(Contribution(kept, make(sent), weight=3, scale=0.3))
        means.append(mean.mean())
    for name, array in means[0].difference.items():
        np.testing.assert_array_equal(array, means[1].difference[name])
        np.testing.assert_array_equal(means[0].trained[name], means[1].trained[name])
    assert means[0].trained["bias"].all()


def test_sparse_arrays_of_a_wrong_shape_are_refused() -> None:
    sent = SparseArrays(np.array([0]), np.ones(1, dtype=np.float32), sub_shapes(LAYOUT, {"channels": 1, "inputs": 1}))
    with pytest.raises(InvalidValueError, match="shape of conv"):
        MaskedMean(FlatModel(LAYOUT)).add(Contribution(full_sub_model(LAYOUT), sent, 1))

"""What all rules of aggregation have in common, and what a fifth of dishonest devices does to each."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.aggregation.choice import AggregationConfig, aggregation_rule
from server.aggregation.contribution import Contribution
from server.aggregation.masked_mean import WeightedMean
from server.aggregation.rule import AggregationRule
from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import Layout, Parameter
from wire_protocol.sub_model import SubModel, full_sub_model, positions

ROBUST = (AggregationConfig("trimmed-mean", trim=0.2), AggregationConfig("median"))
ALL = (AggregationConfig(), AggregationConfig(norm_bound=1.0), *ROBUST, AggregationConfig("median", norm_bound=0.5))
PLAIN = Layout((Parameter("w", (3, 2)), Parameter("b", (2,))))
NOTHING_KEPT = SubModel({})


def plain(value: np.ndarray, weight: float = 1, scale: float = 1.0) -> Contribution:
    return Contribution(NOTHING_KEPT, {"w": value.astype(np.float32), "b": value[0].astype(np.float32)}, weight, scale)


def distance(rule: AggregationRule, fleet: list[Contribution], truth: np.ndarray) -> float:
    return float(np.linalg.norm(rule.aggregate(fleet).difference["w"] - truth))


@pytest.mark.parametrize("config", ALL)
def test_nobody_moves_nothing(cut_layout: Layout, config: AggregationConfig) -> None:
    aggregate = aggregation_rule(config, cut_layout).aggregate([])
    for parameter in cut_layout.parameters:
        difference, trained = aggregate.difference[parameter.name], aggregate.trained[parameter.name]
        assert (difference.shape, difference.dtype) == (parameter.shape, np.float32)
        assert (trained.shape, trained.dtype) == (parameter.shape, np.bool_)
        assert not difference.any()
        assert not trained.any()


@pytest.mark.parametrize("config", ALL)
def test_trained_is_what_anyone_kept(cut_layout: Layout, make_fleet: Callable, config: AggregationConfig) -> None:
    fleet = [replace(one, values={k: 0 * v for k, v in one.values.items()}) for one in make_fleet(2, seed=4)]
    aggregate = aggregation_rule(config, cut_layout).aggregate(fleet)
    someone_left_out = False
    for parameter in cut_layout.parameters:
        expected = np.zeros(parameter.shape, dtype=bool)
        for one in fleet:
            expected[positions(parameter, one.sub_model)] = True
        np.testing.assert_array_equal(aggregate.trained[parameter.name], expected)
        someone_left_out |= not expected.all()
    assert someone_left_out


@pytest.mark.parametrize("config", ALL)
def test_one_device_is_believed(cut_layout: Layout, make_fleet: Callable, config: AggregationConfig) -> None:
    (one,) = make_fleet(1)
    small = replace(one, values={name: values / 64 for name, values in one.values.items()})
    aggregate = aggregation_rule(config, cut_layout).aggregate([small])
    for parameter in cut_layout.parameters:
        sent = aggregate.difference[parameter.name][positions(parameter, one.sub_model)]
        np.testing.assert_array_equal(sent, small.values[parameter.name])


@pytest.mark.parametrize("config", ALL)
def test_the_same_in_the_same_order_is_the_same_bit_for_bit_however_the_rule_was_used_before(
    cut_layout: Layout, make_fleet: Callable, config: AggregationConfig
) -> None:
    rule, fleet = aggregation_rule(config, cut_layout), make_fleet(40)
    first = rule.aggregate(fleet)
    rule.aggregate(make_fleet(7, seed=9))
    again = rule.aggregate(fleet)
    fresh = aggregation_rule(config, cut_layout).aggregate(fleet)
    for name, array in first.difference.items():
        assert array.tobytes() == again.difference[name].tobytes() == fresh.difference[name].tobytes()


@pytest.mark.parametrize("config", ROBUST)
@given(order=st.permutations(range(11)), seed=st.integers(0, 2**16))
def test_the_order_of_devices_changes_no_bit_of_a_robust_rule(
    config: AggregationConfig, order: list[int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    fleet = [plain(np.round(generator.normal(size=(3, 2)))) for _ in order]
    rule = aggregation_rule(config, PLAIN)
    expected, found = rule.aggregate(fleet), rule.aggregate([fleet[index] for index in order])
    for name, array in expected.difference.items():
        assert array.tobytes() == found.difference[name].tobytes()


@given(order=st.permutations(range(9)), seed=st.integers(0, 2**16))
def test_the_mean_of_values_in_one_binade_does_not_know_the_order_either(order: list[int], seed: int) -> None:
    """Sums of such values and whole weights are exact in float64; for others the server folds by device."""
    generator = np.random.default_rng(seed)
    fleet = [
        plain((generator.uniform(1, 2, (3, 2))).astype(np.float32), weight=int(generator.integers(1, 10**6)))
        for _ in order
    ]
    rule = WeightedMean(PLAIN)
    expected, found = rule.aggregate(fleet), rule.aggregate([fleet[index] for index in order])
    for name, array in expected.difference.items():
        assert array.tobytes() == found.difference[name].tobytes()


@pytest.mark.parametrize("config", ALL)
def test_a_wrong_shape_is_named(cut_layout: Layout, make_fleet: Callable, config: AggregationConfig) -> None:
    (one,) = make_fleet(1)
    wrong = replace(one, values=dict(one.values) | {"whole": np.ones(3, dtype=np.float32)})
    with pytest.raises(InvalidValueError, match=r"shape of whole must be \(2,\), got \(3,\)"):
        aggregation_rule(config, cut_layout).aggregate([wrong])


def honest(seed: int, devices: int) -> tuple[np.ndarray, list[Contribution]]:
    """What the fleet should say, and devices that say it with noise of a tenth."""
    generator = np.random.default_rng(seed)
    truth = generator.choice([-1.0, 1.0], size=(3, 2))
    return truth, [plain(truth + generator.normal(scale=0.1, size=(3, 2))) for _ in range(devices)]


@pytest.mark.parametrize("attack", [100.0, -1.0, -100.0])
@pytest.mark.parametrize("config", ROBUST)
@given(seed=st.integers(0, 2**16))
def test_a_fifth_of_the_devices_moves_a_robust_rule_little(config: AggregationConfig, attack: float, seed: int) -> None:
    truth, fleet = honest(seed, 20)
    attacked = [plain(attack * np.asarray(one.values["w"])) for one in fleet[:4]] + fleet[4:]
    rule = aggregation_rule(config, PLAIN)
    assert distance(rule, attacked, truth) < distance(rule, fleet, truth) + 0.2
    assert distance(WeightedMean(PLAIN), attacked, truth) > 0.7


@pytest.mark.parametrize("config", ROBUST)
def test_a_robust_rule_gives_no_weight_to_who_claims_much(config: AggregationConfig) -> None:
    truth, fleet = honest(0, 20)
    liars = [replace(plain(100 * np.asarray(one.values["w"])), weight=10**9) for one in fleet[:4]]
    assert distance(aggregation_rule(config, PLAIN), liars + fleet[4:], truth) < 0.4


@given(seed=st.integers(0, 2**16), attack=st.floats(100, 1e20))
def test_a_bounded_mean_moves_no_further_than_the_share_of_the_dishonest(seed: int, attack: float) -> None:
    truth, fleet = honest(seed, 20)
    bound = 5.0
    attacked = [plain(attack * np.asarray(one.values["w"])) for one in fleet[:4]] + fleet[4:]
    rule = aggregation_rule(AggregationConfig(norm_bound=bound), PLAIN)
    moved = np.linalg.norm(rule.aggregate(attacked).difference["w"] - rule.aggregate(fleet).difference["w"])
    assert moved <= 4 / 20 * 2 * bound
    assert distance(WeightedMean(PLAIN), attacked, truth) > 10


def test_a_scale_shrinks_the_difference_and_not_the_weight(cut_layout: Layout, by_hand: Callable) -> None:
    ones, threes = (plain(np.full((3, 2), value), weight, scale) for value, weight, scale in ((1, 1, 1), (3, 3, 0.5)))
    assert WeightedMean(PLAIN).aggregate([ones, threes]).difference["w"][0, 0] == (1 * 1 + 3 * 1.5) / 4
    assert aggregation_rule(AggregationConfig("median"), PLAIN).aggregate([threes]).difference["b"][0] == 1.5


def test_the_whole_fleet_of_full_models(cut_layout: Layout, make_fleet: Callable) -> None:
    fleet = make_fleet(70, full=True)
    assert fleet[0].sub_model.widths == full_sub_model(cut_layout).widths
    aggregate = WeightedMean(cut_layout).aggregate(fleet)
    for name, array in aggregate.difference.items():
        expected = np.average(
            [one.values[name].astype(float) for one in fleet], axis=0, weights=[o.weight for o in fleet]
        )
        np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-9)

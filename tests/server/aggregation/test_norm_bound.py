import numpy as np
import pytest

from server.aggregation.contribution import Contribution
from server.aggregation.masked_mean import WeightedMean
from server.aggregation.norm_bound import NormBounded, l2_norm
from server.aggregation.rule import Aggregate
from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import Layout, Parameter
from wire_protocol.sub_model import SubModel

LAYOUT = Layout((Parameter("w", (2,)), Parameter("b", (1,))))


def sent(w: tuple[float, float], b: float, weight: float = 1, scale: float = 1.0) -> Contribution:
    values = {"w": np.array(w, np.float32), "b": np.array([b], np.float32)}
    return Contribution(SubModel({}), values, weight, scale)


def test_hand_computed_over_all_parameters_together() -> None:
    """(2, 3, 6) has norm 7 and is halved to 3.5; (0, 0, 2) is within the bound; the weights stay 1 and 3."""
    aggregate = NormBounded(WeightedMean(LAYOUT), 3.5).aggregate([sent((2, 3), 6), sent((0, 0), 2, weight=3)])
    assert aggregate.difference["w"].tolist() == [0.25, 0.375]
    assert aggregate.difference["b"].tolist() == [(3 + 3 * 2) / 4]


def test_a_difference_at_the_bound_and_one_of_zeros_stay() -> None:
    fleet = [sent((2, 3), 6), sent((0, 0), 0)]
    bounded, plain = NormBounded(WeightedMean(LAYOUT), 7).aggregate(fleet), WeightedMean(LAYOUT).aggregate(fleet)
    assert bounded.difference["w"].tolist() == plain.difference["w"].tolist() == [1, 1.5]


def test_a_scale_is_kept_and_every_pass_is_bounded() -> None:
    class Twice:
        def aggregate(self, contributions: list[Contribution]) -> Aggregate:
            assert len(contributions) == 1
            first, second = ([one.scale for one in contributions] for _ in range(2))
            assert first == second == [0.25]
            return WeightedMean(LAYOUT).aggregate(contributions)

    NormBounded(Twice(), 3.5).aggregate([sent((2, 3), 6, scale=0.5)])


def test_the_largest_values_that_screening_lets_pass_have_a_norm() -> None:
    assert l2_norm({"w": np.full(4, 1e30, np.float32)}) == pytest.approx(2e30)


@pytest.mark.parametrize("bound", [0, -1, float("inf"), float("nan")])
def test_refuses_a_bound_out_of_range(bound: float) -> None:
    with pytest.raises(InvalidValueError, match="norm_bound must be above 0 and finite"):
        NormBounded(WeightedMean(LAYOUT), bound)

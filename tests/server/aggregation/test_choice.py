import pytest

from server.aggregation.choice import AggregationConfig, aggregation_rule
from server.aggregation.masked_mean import WeightedMean
from server.aggregation.median import Median
from server.aggregation.norm_bound import NormBounded
from server.aggregation.trimmed_mean import TrimmedMean
from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import Layout, Parameter

LAYOUT = Layout((Parameter("w", (1,)),))


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (AggregationConfig(), WeightedMean),
        (AggregationConfig("trimmed-mean"), TrimmedMean),
        (AggregationConfig("trimmed-mean", trim=0.0), TrimmedMean),
        (AggregationConfig("median"), Median),
        (AggregationConfig("median", norm_bound=2.0), NormBounded),
    ],
)
def test_a_name_chooses_the_rule(config: AggregationConfig, kind: type) -> None:
    assert type(aggregation_rule(config, LAYOUT)) is kind


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"aggregation": "krum"}, "aggregation must be one of mean, trimmed-mean, median, got 'krum'"),
        ({"aggregation": "trimmed-mean", "trim": 0.5}, "trim must be at least 0 and below 0.5, got 0.5"),
        ({"aggregation": "trimmed-mean", "trim": -0.1}, "trim must be at least 0 and below 0.5, got -0.1"),
        ({"trim": 0.1}, "trim must be left out, as aggregation is mean and not trimmed-mean, got 0.1"),
        ({"norm_bound": 0.0}, "norm_bound must be above 0 and finite, got 0.0"),
        ({"norm_bound": float("inf")}, "norm_bound must be above 0 and finite, got inf"),
    ],
)
def test_a_mistake_names_field_value_and_range(fields: dict, text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        AggregationConfig(**fields)
    assert str(caught.value) == text

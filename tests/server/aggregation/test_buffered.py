import pytest

from server.aggregation.buffered import BufferRule
from wire_protocol.errors import InvalidValueError


@pytest.mark.parametrize(
    ("exponent", "discounts"),
    [(0.5, [1.0, 2**-0.5, 3**-0.5, 0.5]), (1.0, [1.0, 1 / 2, 1 / 3, 1 / 4]), (0.0, [1.0] * 4)],
)
def test_stale_updates_count_less(exponent: float, discounts: list[float]) -> None:
    rule = BufferRule(goal=2, exponent=exponent)
    assert [rule.discount(staleness) for staleness in range(4)] == discounts


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"goal": 0}, "buffer_goal must be at least 1, got 0"),
        ({"most_stale": -1}, "most_stale must be at least 0, got -1"),
        ({"exponent": -0.5}, "staleness_exponent must be at least 0 and finite, got -0.5"),
        ({"exponent": float("inf")}, "staleness_exponent must be at least 0 and finite, got inf"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, float], text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        BufferRule(**({"goal": 1} | fields))
    assert str(caught.value) == text

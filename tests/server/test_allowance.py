import pytest

from server.allowance import Allowance
from wire_protocol.errors import InvalidValueError


def test_a_burst_then_the_rate_for_each_name_alone() -> None:
    now = [100.0]
    allowance = Allowance(rate=2.0, burst=3, clock=lambda: now[0])
    assert [allowance.take("a") for _ in range(5)] == [True, True, True, False, False]
    assert allowance.take("b")
    now[0] += 0.5
    assert [allowance.take("a") for _ in range(2)] == [True, False]
    now[0] += 100
    assert [allowance.take("a") for _ in range(5)] == [True, True, True, False, False]


def test_names_that_used_nothing_lately_are_forgotten() -> None:
    now = [0.0]
    allowance = Allowance(rate=1.0, burst=1, clock=lambda: now[0])
    for number in range(20_000):
        now[0] += 0.01
        assert allowance.take(f"name {number}")
    assert len(allowance._due) <= 4096


def test_illegal_values() -> None:
    with pytest.raises(InvalidValueError, match="rate must be above 0, got 0"):
        Allowance(0, 1, lambda: 0.0)
    with pytest.raises(InvalidValueError, match="burst must be at least 1, got 0"):
        Allowance(1.0, 0, lambda: 0.0)

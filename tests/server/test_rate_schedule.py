"""The learning rate of each round."""

import pytest

from server.config import RunConfig
from server.rate_schedule import rate_at
from server.round_plan import Opening, round_plan
from wire_protocol.errors import InvalidValueError


def test_without_decay_every_round_has_the_runs_rate():
    assert [rate_at(0.2, "none", number, 4) for number in (1, 4, 9)] == [0.2, 0.2, 0.2]


def test_half_a_wave_by_hand():
    rates = [rate_at(0.2, "cosine", number, 4) for number in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.2, 0.1 + 0.1 * 0.5**0.5, 0.1, 0.1 - 0.1 * 0.5**0.5])


def test_a_round_after_the_last_number_has_the_last_rate_and_none_has_the_rate_zero():
    assert rate_at(0.2, "cosine", 7, 4) == rate_at(0.2, "cosine", 4, 4) > 0
    assert rate_at(0.2, "cosine", 1, 1) == 0.2


@pytest.mark.parametrize("number", [1, 20, 40])
def test_the_plan_has_the_rate_of_its_round(number):
    config = RunConfig(rounds=40, learning_rate=0.3, rate_decay="cosine")
    opening = Opening(number, number, 0, "0" * 64, "0" * 64, 0.0, {})
    assert round_plan(config, opening).learning_rate == rate_at(0.3, "cosine", number, 40)


def test_an_unknown_decay_is_refused_by_name():
    with pytest.raises(InvalidValueError, match=r"rate_decay must be one of none, cosine, got 'linear'"):
        RunConfig(rate_decay="linear")

"""The learning rate of each round."""

import pytest

from server.config import RunConfig
from server.rate_schedule import RateSchedule
from server.round_plan import Opening, round_plan
from wire_protocol.errors import InvalidValueError


def test_without_decay_every_round_has_the_runs_rate():
    assert [RateSchedule(0.2, 4, "none").at(number) for number in (1, 4, 9)] == [0.2, 0.2, 0.2]


def test_half_a_wave_by_hand():
    rates = [RateSchedule(0.2, 4, "cosine").at(number) for number in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.2, 0.1 + 0.1 * 0.5**0.5, 0.1, 0.1 - 0.1 * 0.5**0.5])


def test_a_round_after_the_last_number_has_the_last_rate_and_none_has_the_rate_zero():
    assert RateSchedule(0.2, 4, "cosine").at(7) == RateSchedule(0.2, 4, "cosine").at(4) > 0
    assert RateSchedule(0.2, 1, "cosine").at(1) == 0.2


@pytest.mark.parametrize("number", [1, 20, 40])
def test_the_plan_has_the_rate_of_its_round(number):
    config = RunConfig(rounds=40, learning_rate=0.3, rate_decay="cosine")
    opening = Opening(number, number, 0, "0" * 64, "0" * 64, 0.0, {})
    assert round_plan(config, opening).learning_rate == RateSchedule(0.3, 40, "cosine").at(number)


def test_an_unknown_decay_is_refused_by_name():
    with pytest.raises(InvalidValueError, match=r"rate_decay must be one of none, cosine, got 'linear'"):
        RunConfig(rate_decay="linear")


def test_the_rate_rises_in_equal_steps_and_then_stays():
    rates = [RateSchedule(0.6, 9, warmup=2).at(number) for number in (1, 2, 3, 4)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.6])


def test_warm_up_and_decay_multiply():
    both, decay = RateSchedule(0.6, 9, "cosine", warmup=2), RateSchedule(0.6, 9, "cosine")
    assert [both.at(number) for number in (1, 5)] == pytest.approx([decay.at(1) / 3, decay.at(5)])


def test_a_warm_up_out_of_range_is_refused_by_name():
    with pytest.raises(InvalidValueError, match="rate_warmup must be an integer of at least 0, got -1"):
        RunConfig(rate_warmup=-1)

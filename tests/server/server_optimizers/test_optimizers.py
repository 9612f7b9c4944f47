"""Every server optimizer against its paper's formula by hand, and what all of them have in common."""

from math import sqrt

import numpy as np
import pytest

from server.aggregation.rule import Aggregate
from server.server_optimizers.adaptive import AdaptiveSettings
from server.server_optimizers.fed_adam import FedAdam
from server.server_optimizers.fed_avg import FedAvg
from server.server_optimizers.fed_avg_m import FedAvgM
from server.server_optimizers.fed_yogi import FedYogi
from server.server_optimizers.optimizer import ServerOptimizer

SETTINGS = AdaptiveSettings(learning_rate=0.5, momentum=0.75, second_momentum=0.5, adaptivity=0.25)
ALL = (FedAvg(), FedAvgM(), FedAdam(), FedYogi())


def told(*difference: float, trained: tuple[bool, ...] | None = None) -> Aggregate:
    values = np.array(difference, np.float32)
    return Aggregate({"w": values}, {"w": np.array(trained or (True,) * len(difference))})


def after(optimizer: ServerOptimizer, start: list[float], *rounds: Aggregate) -> tuple[list[float], dict]:
    parameters = {"w": np.array(start, np.float32)}
    state = optimizer.init(parameters)
    for aggregate in rounds:
        parameters, state = optimizer.apply(parameters, aggregate, state)
    assert parameters["w"].dtype == np.float32
    return parameters["w"].tolist(), dict(state)


def test_fed_avg_adds_the_mean_difference() -> None:
    assert after(FedAvg(), [1, 2], told(0.5, 0)) == ([1.5, 2], {})
    assert after(FedAvg(learning_rate=0.5), [1, 2], told(0.5, -2)) == ([1.25, 1], {})


def test_fed_avg_m_by_hand() -> None:
    """v: 4, then 0.5 x 4 + 1 = 3; x: 1 + 0.25 x 4 = 2, then 2 + 0.25 x 3 = 2.75."""
    moved, state = after(FedAvgM(learning_rate=0.25, momentum=0.5), [1], told(4), told(1))
    assert moved == [2.75]
    assert state["momentum/w"].tolist() == [3]


def test_fed_avg_m_without_momentum_is_fed_avg() -> None:
    rounds = (told(0.5, 0.25), told(-1, 3))
    assert after(FedAvgM(1.0, 0.0), [1, 2], *rounds)[0] == after(FedAvg(), [1, 2], *rounds)[0]


def test_fed_adam_by_hand() -> None:
    """v starts at 1/16. D = 2: m = 1/2, v = 65/32. D = -1: m = 3/8 - 1/4 = 1/8, v = 65/64 + 1/2 = 97/64."""
    moved, state = after(FedAdam(SETTINGS), [1], told(2), told(-1))
    first = 0.5 * 0.5 / (sqrt(65 / 32) + 0.25)
    second = 0.5 * 0.125 / (sqrt(97 / 64) + 0.25)
    assert moved == [pytest.approx(1 + first + second, rel=1e-6)]
    assert state["first_moment/w"].tolist() == [0.125]
    assert state["second_moment/w"].tolist() == [97 / 64]


def test_fed_yogi_by_hand() -> None:
    """v: 1/16 - (1/2) 4 sign(1/16 - 4) = 33/16, then 33/16 - (1/2) 1 sign(33/16 - 1) = 25/16; m as in FedAdam."""
    moved, state = after(FedYogi(SETTINGS), [1], told(2), told(-1))
    first = 0.5 * 0.5 / (sqrt(33 / 16) + 0.25)
    second = 0.5 * 0.125 / (sqrt(25 / 16) + 0.25)
    assert moved == [pytest.approx(1 + first + second, rel=1e-6)]
    assert state["first_moment/w"].tolist() == [0.125]
    assert state["second_moment/w"].tolist() == [25 / 16]


@pytest.mark.parametrize("optimizer", ALL)
def test_what_nobody_trained_stays_and_so_do_its_moments(optimizer: ServerOptimizer) -> None:
    first, second = told(1, 1), told(0, 2, trained=(False, True))
    before, old = after(optimizer, [1, 1], first)
    moved, new = after(optimizer, [1, 1], first, second)
    assert moved[0] == before[0]
    assert moved[1] != before[1]
    for key, array in new.items():
        assert array[0] == old[key][0]
        assert array[1] != old[key][1]


@pytest.mark.parametrize("optimizer", ALL[1:])
def test_a_difference_of_zero_that_someone_sent_is_another_thing(optimizer: ServerOptimizer) -> None:
    sent, unknown = (after(optimizer, [1], told(1), told(0, trained=(trained,)))[0] for trained in (True, False))
    assert sent != unknown


@pytest.mark.parametrize("optimizer", ALL)
def test_nothing_is_changed_in_place_and_the_state_has_the_names_it_says(optimizer: ServerOptimizer) -> None:
    parameters = {"w": np.ones(2, np.float32), "a.b": np.ones((), np.float32)}
    trained = {name: np.ones(array.shape, dtype=bool) for name, array in parameters.items()}
    aggregate = Aggregate({name: np.full_like(array, 0.5) for name, array in parameters.items()}, trained)
    state = optimizer.init(parameters)
    assert set(state) == {f"{moment}/{name}" for moment in optimizer.moments for name in parameters}
    old = {key: array.copy() for key, array in state.items()}
    moved, new = optimizer.apply(parameters, aggregate, state)
    assert {key: array.shape for key, array in new.items()} == {key: array.shape for key, array in state.items()}
    assert all(array.dtype == np.float64 for array in new.values())
    assert moved["a.b"].shape == ()
    for key, array in old.items():
        np.testing.assert_array_equal(state[key], array)
    np.testing.assert_array_equal(parameters["w"], [1, 1])


@pytest.mark.parametrize("optimizer", ALL)
def test_the_largest_differences_that_screening_lets_pass_leave_all_finite(optimizer: ServerOptimizer) -> None:
    moved, state = after(optimizer, [0, 0], *(told(1e30, -1e30) for _ in range(50)), told(1, 1))
    assert np.isfinite(moved).all()
    assert all(np.isfinite(array).all() for array in state.values())

import pytest

from server.config import RunConfig
from server.privacy.calibration import ledger_epsilon
from server.privacy.run_words import DELTA, NOT_PRIVATE, schedule_of_run
from server.privacy.spending import Spending, spending
from wire_protocol.privacy import DevicePrivacy

PRIVACY = DevicePrivacy(clip_norm=1.0, noise_multiplier=2.0)


def test_a_run_that_is_not_private_says_so() -> None:
    assert spending(RunConfig(), 3) == Spending(NOT_PRIVATE)


def test_epsilon_grows_to_what_was_planned() -> None:
    config = RunConfig(rounds=12, privacy=PRIVACY, selection="random")
    found = spending(config, 5)
    assert (found.protects, found.delta) == ("device", DELTA)
    assert [point.rounds for point in found.spent] == [1, 2, 3, 4, 5]
    for point in found.spent:
        releases = schedule_of_run(config, PRIVACY).releases(2.0, point.rounds)
        assert point.epsilon == pytest.approx(ledger_epsilon(releases, DELTA))
    assert spending(config, 12).spent[-1].epsilon == found.planned > found.spent[-1].epsilon
    assert f"epsilon {found.planned:.3g}" in found.words


def test_before_the_first_round_nothing_is_spent() -> None:
    assert spending(RunConfig(privacy=PRIVACY, selection="random"), 0).spent == ()


@pytest.mark.parametrize("closed", [23, 24, 100, 1001])
def test_long_runs_have_few_points(closed: int) -> None:
    rounds = [
        point.rounds for point in spending(RunConfig(rounds=2000, privacy=PRIVACY, selection="random"), closed).spent
    ]
    assert len(rounds) <= 25
    assert rounds[-1] == closed
    assert rounds == sorted(set(rounds))

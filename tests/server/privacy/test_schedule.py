from math import inf, nan

import pytest

from server.privacy.schedule import DeviceSchedule, RecordSchedule
from wire_protocol.errors import InvalidValueError
from wire_protocol.privacy import GaussianReleases, RecordPrivacy

RECORD = {"rounds": 10, "local_steps": 20, "sampling_rate": 0.05, "score_noise_multiplier": 9.0, "resync_every": 4}


def test_a_schedule_is_the_sum_of_its_rounds():
    schedule = RecordSchedule(**RECORD)
    privacy = RecordPrivacy(1.0, 1.1, 0.05, 9.0)
    for rounds in range(1, 11):
        each = [privacy.releases(20, scores=(number - 1) % 4 == 0) for number in range(1, rounds + 1)]
        steps, scores = schedule.releases(1.1, rounds)
        assert steps.count == sum(round_[0].count for round_ in each)
        assert scores.count == sum(round_[1].count for round_ in each if len(round_) == 2)
        assert (scores.noise_multiplier, scores.sampling_rate) == (9.0, 1.0)


def test_without_noise_for_scores_there_are_none():
    assert RecordSchedule(3, 20, 0.05).releases(1.1, 2) == (GaussianReleases(1.1, 0.05, 40),)


def test_a_device_schedule_releases_one_update_a_round():
    assert DeviceSchedule(7).releases(0.8, 3) == (GaussianReleases(0.8, 1.0, 3),)


@pytest.mark.parametrize(
    ("field", "values", "legal"),
    [
        ("rounds", (0, -1, 10**6 + 1), "1 to 1000000"),
        ("local_steps", (0, -1), "1 to 1000000"),
        ("sampling_rate", (0.0, 1e-10, 1.1, nan), "1e-09 to 1"),
        ("score_noise_multiplier", (-1.0, inf, nan), "at least 0 and finite"),
        ("resync_every", (0, -3), "1 to 1000000"),
    ],
)
def test_field_value_and_range_are_named(field, values, legal):
    for value in values:
        with pytest.raises(InvalidValueError) as caught:
            RecordSchedule(**RECORD | {field: value})
        assert str(caught.value) == f"{field} must be {legal}, got {value!r}"


def test_more_steps_than_can_be_counted_are_refused():
    with pytest.raises(InvalidValueError, match="rounds \\* local_steps must be at most 1000000"):
        RecordSchedule(1001, 1000, 0.5)
    with pytest.raises(InvalidValueError, match="rounds must be 1 to"):
        DeviceSchedule(0)

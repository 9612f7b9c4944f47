from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.errors import PausedError
from edge_client.limits import Limits, Readings
from edge_client.machine_sensors import Sensors
from edge_client.machine_watch import LOOK_SECONDS, MachineWatch
from edge_client.pace import COOL_BY, LEAST_DUTY, Pace, next_pace

LIMITS = Limits(max_temperature=80, slow_temperature=60, pause_on_battery=True)


def at(temperature, on_battery=False) -> Readings:
    return Readings(temperature, on_battery, datetime(2026, 11, 22, 12))


@pytest.mark.parametrize(
    ("temperature", "duty"), [(20, 1.0), (60, 1.0), (65, 0.75), (70, 0.5), (78, 0.1), (80, 0.1), (95, 0.1)]
)
def test_the_share_of_the_time_falls_in_proportion_between_the_two_temperatures(temperature, duty):
    assert next_pace(Pace(), LIMITS, at(temperature)).duty == pytest.approx(duty)


def test_without_the_lower_temperature_nothing_slows_down():
    assert next_pace(Pace(), Limits(max_temperature=80), at(79.9)) == Pace()


def test_what_was_too_hot_goes_on_once_it_is_cooler_and_not_at_once():
    hot = next_pace(Pace(), LIMITS, at(80.1))
    assert hot.pause is not None
    assert (hot.pause.of, hot.pause.words) == ("temperature", "the device is too hot")
    for temperature in (79.0, 80 - COOL_BY + 0.1):
        still = next_pace(hot, LIMITS, at(temperature))
        assert still.pause is not None
        assert str(still.pause).endswith("max_temperature allows 80, after a rest 75")
        assert next_pace(Pace(), LIMITS, at(temperature)).pause is None
    assert next_pace(hot, LIMITS, at(80 - COOL_BY)).pause is None


def test_a_rest_for_another_cause_asks_for_no_cooling():
    unplugged = next_pace(Pace(), LIMITS, at(79, on_battery=True))
    assert unplugged.pause is not None
    assert unplugged.pause.of == "battery"
    assert next_pace(unplugged, LIMITS, at(79)).pause is None


@given(st.floats(0, 150), st.floats(0, 150), st.floats(0.001, 100))
def test_hotter_is_never_faster(first, second, step):
    cooler, hotter = (next_pace(Pace(), LIMITS, at(one)) for one in sorted((first, second)))
    assert LEAST_DUTY <= hotter.duty <= cooler.duty <= 1
    rest = hotter.rest_seconds(step)
    assert step / (step + rest) == pytest.approx(hotter.duty)


def test_sensors_are_asked_as_often_as_it_is_worth():
    now, asked = [0.0], []

    def temperature():
        asked.append(now[0])
        return 90.0 if now[0] < 10 else 20.0

    watch = MachineWatch(Limits(max_temperature=80), Sensors(temperature=temperature, seconds=lambda: now[0]))
    for now[0] in (0.0, 1.0, LOOK_SECONDS, LOOK_SECONDS + 1, 3 * LOOK_SECONDS):
        hot = watch.pace().pause is not None
        assert hot == (now[0] < 10)
        if hot:
            with pytest.raises(PausedError, match="the temperature is 90 degrees"):
                watch.require_may_begin()
        else:
            watch.require_may_begin()
    assert asked == [0.0, LOOK_SECONDS, 3 * LOOK_SECONDS]


def test_a_device_without_limits_asks_no_sensor():
    def never():
        raise AssertionError("nobody asked for it")

    assert MachineWatch(None, Sensors(temperature=never, seconds=never)).pace() == Pace()

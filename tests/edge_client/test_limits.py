from datetime import datetime
from math import inf

import pytest

from edge_client.errors import ConfigError
from edge_client.limits import Hours, Limits, Readings, pause_reason, read_limits
from edge_client.machine_sensors import Sensors, require_sensors
from wire_protocol.errors import InvalidValueError

NOON = datetime(2026, 11, 22, 12, 0)


def readings(**changes) -> Readings:
    return Readings(**{"temperature": 40.0, "on_battery": False, "moment": NOON, **changes})


def test_every_limit_is_read():
    table = {
        "seconds_per_round": 60, "bytes_per_day": 5_000_000, "memory_mb": 200.5, "max_temperature": 70,
        "pause_on_battery": True, "hours": "22:00-06:30", "slow_temperature": 60, "pause_on_metered": True,
    }  # fmt: skip
    assert read_limits(table) == Limits(60.0, 5e6, 200.5, 70.0, True, Hours(22 * 60, 6 * 60 + 30), 60.0, True)


def test_an_empty_table_limits_nothing():
    limits = read_limits({})
    assert (limits.seconds_per_round, limits.bytes_per_day, limits.memory_mb) == (inf, inf, inf)
    assert pause_reason(limits, Readings(None, None, None)) is None


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("seconds", 3, "key of limits must be one of seconds_per_round, .*, got 'seconds'"),
        ("seconds_per_round", 0, "limits.seconds_per_round must be above 0, got 0.0"),
        ("seconds_per_round", "60", "limits.seconds_per_round must be a finite number above 0, got '60'"),
        ("seconds_per_round", True, "limits.seconds_per_round must be a finite number above 0, got True"),
        ("seconds_per_round", inf, "limits.seconds_per_round must be a finite number above 0, got inf"),
        ("memory_mb", 10**400, "limits.memory_mb must be a finite number above 0, got 1000"),
        ("bytes_per_day", 10**400, "limits.bytes_per_day must be a finite number above 0, got 1000"),
        ("bytes_per_day", 1.5, "limits.bytes_per_day must be a whole number of bytes above 0, got 1.5"),
        ("bytes_per_day", -1, "limits.bytes_per_day must be above 0, got -1.0"),
        ("memory_mb", float("nan"), "limits.memory_mb must be a finite number above 0, got nan"),
        ("max_temperature", 151, "limits.max_temperature must be a number above 0 and at most 150 degrees"),
        ("max_temperature", "70", "limits.max_temperature must be a number above 0 and at most 150 degrees"),
        ("slow_temperature", "60", "limits.slow_temperature must be a number above 0 and below max_temperature"),
        (
            "slow_temperature",
            60,
            "limits.slow_temperature must be a number above 0 and below max_temperature",
        ),
        ("pause_on_metered", "no", "limits.pause_on_metered must be true or false, got 'no'"),
        ("pause_on_battery", 1, "limits.pause_on_battery must be true or false, got 1"),
        ("hours", "22-6", "limits.hours must be two different times of day, .*, got '22-6'"),
        ("hours", "24:00-06:00", "limits.hours must be two different times of day"),
        ("hours", "06:00-06:00", "limits.hours must be two different times of day"),
    ],
)
def test_a_wrong_limit_is_refused_by_key_value_and_what_is_legal(key, value, complaint):
    with pytest.raises(InvalidValueError, match=complaint):
        read_limits({key: value})


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("22:00-06:00", [(22, 0), (23, 59), (0, 0), (5, 59)], [(6, 0), (12, 0), (21, 59)]),
        ("08:30-09:00", [(8, 30), (8, 59)], [(8, 29), (9, 0), (0, 0)]),
    ],
)
def test_hours_go_up_to_their_end_and_past_midnight(hours, inside, outside):
    limits = read_limits({"hours": hours})
    assert all(pause_reason(limits, readings(moment=NOON.replace(hour=h, minute=m))) is None for h, m in inside)
    for hour, minute in outside:
        reason = pause_reason(limits, readings(moment=NOON.replace(hour=hour, minute=minute)))
        assert str(reason) == f"it is {hour:02}:{minute:02}, hours allows {hours}"


@pytest.mark.parametrize(
    ("limits", "change", "reason"),
    [
        (Limits(max_temperature=70), {"temperature": 70.0}, None),
        (Limits(max_temperature=70), {"temperature": 71.0}, "the temperature is 71 degrees, max_temperature allows 70"),
        (Limits(max_temperature=70), {"temperature": None}, "the temperature cannot be read"),
        (Limits(), {"temperature": 200.0, "on_battery": True}, None),
        (Limits(pause_on_battery=True), {}, None),
        (Limits(pause_on_battery=True), {"on_battery": True}, "the device runs on battery"),
        (Limits(pause_on_battery=True), {"on_battery": None}, "cannot be seen whether mains power is on"),
        (Limits(pause_on_metered=True), {"metered": False}, None),
        (Limits(pause_on_metered=True), {"metered": True}, "the link is metered"),
        (Limits(pause_on_metered=True), {"metered": None}, "cannot be seen whether the link is metered"),
        (Limits(hours=Hours(0, 60)), {"moment": None}, "the clock was never set"),
    ],
)
def test_a_limit_that_is_reached_or_cannot_be_judged_pauses(limits, change, reason):
    found = pause_reason(limits, readings(**change))
    assert found is None if reason is None else reason in str(found)


def test_only_sensors_that_a_limit_needs_are_asked():
    def never():
        raise AssertionError("nobody asked for it")

    Sensors(temperature=never, on_battery=never, metered=never, throttled=never, local_time=lambda: NOON).readings(
        Limits()
    )


@pytest.mark.parametrize(
    ("limits", "advice"),
    [
        (Limits(max_temperature=70), "install the package psutil"),
        (Limits(pause_on_battery=True), "install the package psutil"),
        (Limits(pause_on_metered=True), "it wants NetworkManager"),
    ],
)
def test_a_limit_without_its_sensor_is_refused_at_the_start(limits, advice):
    blind = Sensors(temperature=lambda: None, on_battery=lambda: None, metered=lambda: None)
    with pytest.raises(ConfigError, match=f"is set, but nothing on this machine tells of it: {advice}"):
        require_sensors(limits, blind)
    require_sensors(limits, Sensors(temperature=lambda: 20.0, on_battery=lambda: False, metered=lambda: False))
    require_sensors(Limits(), blind)


def test_this_machine_can_be_looked_at():
    sensors = Sensors()
    assert sensors.on_battery() in (True, False, None)
    assert sensors.temperature() is None or sensors.temperature() > -300
    before = sensors.peak_memory_mb()
    block = bytearray(64_000_000)
    assert sensors.peak_memory_mb() >= before * 0.5 + 32
    del block
    assert sensors.machine()

from dataclasses import replace

import msgspec
import pytest

from edge_client.allowed_report import Report, read_report
from edge_client.report import Health, is_news, told
from wire_protocol.device_state import DeviceState
from wire_protocol.errors import InvalidValueError

BIRTH = DeviceState(online=True, examples=7, runtime="portable", client="0.1.0", release="r1")
HEALTH = Health(61.26, True, "the device is too hot", 2.5, 12_000)


def test_what_is_told_is_what_the_owner_allows():
    every = told(BIRTH, HEALTH, Report())
    assert every == msgspec.structs.replace(
        BIRTH, temperature=61.3, throttled=True, paused="the device is too hot", budget_left=2.5, free_mb=12_000
    )
    less = told(BIRTH, HEALTH, Report(temperature=False, budget_left=False))
    assert less == msgspec.structs.replace(every, temperature=None, budget_left=None)


def test_what_trained_last_is_told_in_place_of_the_owners_word():
    assert told(BIRTH, replace(HEALTH, runtime="portable/cuda"), Report()).runtime == "portable/cuda"


@pytest.mark.parametrize("degrees", [None, -273.2, 3000.0, float("nan")])
def test_a_sensor_that_says_what_cannot_be_says_nothing(degrees):
    assert told(BIRTH, replace(HEALTH, temperature=degrees), Report()).temperature is None
    assert told(BIRTH, Health(), Report()) == BIRTH


def test_the_table_is_read_strictly():
    assert read_report({}) == Report(temperature=True, budget_left=True)
    assert read_report({"temperature": False}) == Report(temperature=False)
    with pytest.raises(
        InvalidValueError, match="key of report must be one of temperature, budget_left, got 'examples'"
    ):
        read_report({"examples": False})
    with pytest.raises(InvalidValueError, match=r"report.budget_left must be true or false, got 0"):
        read_report({"budget_left": 0})


@pytest.mark.parametrize(
    ("change", "news"),
    [
        ({}, False),
        ({"temperature": 65.9}, False),
        ({"temperature": 66.3}, True),
        ({"temperature": None}, True),
        ({"throttled": False}, True),
        ({"paused": ""}, True),
        ({"budget_left": 2.4}, True),
        ({"free_mb": 11_000}, False),
        ({"free_mb": 10_700}, True),
        ({"free_mb": None}, True),
    ],
)
def test_what_changes_materially_is_news(change, news):
    said = told(BIRTH, HEALTH, Report())
    now = told(BIRTH, replace(HEALTH, **change), Report())
    assert is_news(said, now) == news
    assert not is_news(now, now)

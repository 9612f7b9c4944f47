from dataclasses import replace
from math import inf, nan

import pytest

from server.alerts import AlertRules, Alerts, Seen, step
from wire_protocol.errors import InvalidValueError

RULES = AlertRules(silent_rounds=3, diverged=2, spent_share=0.9)
CALM = Seen(now=100.0, round_seconds=10.0, heard=100.0, loss=0.5, best_loss=0.4)


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, set()),
        ({"heard": 71.0}, set()),
        ({"heard": 70.0}, {"silence"}),
        ({"heard": None}, set()),
        ({"loss": 0.8}, set()),
        ({"loss": 0.81}, {"divergence"}),
        ({"loss": nan}, {"divergence"}),
        ({"loss": nan, "best_loss": inf}, {"divergence"}),
        ({"loss": None, "best_loss": inf}, set()),
        ({"epsilon_planned": 4.0, "epsilon_spent": 3.5}, set()),
        ({"epsilon_planned": 4.0, "epsilon_spent": 3.6}, {"budget"}),
        ({"heard": 0.0, "loss": inf, "epsilon_planned": 1.0, "epsilon_spent": 1.0},
         {"silence", "divergence", "budget"}),
    ],
)  # fmt: skip
def test_what_is_seen_raises_alerts(changes: dict, kinds: set[str]) -> None:
    alerts, raised = step(Alerts(), RULES, replace(CALM, **changes))
    assert set(raised) == set(alerts.standing) == kinds


def test_an_alert_is_raised_once_and_again_only_after_its_cause_was_gone() -> None:
    silent = replace(CALM, heard=0.0)
    alerts, first = step(Alerts(), RULES, silent)
    assert first == {"silence": "no update was counted for 100 s; a round takes 10 s at most"}
    alerts, second = step(alerts, RULES, replace(silent, now=120.0))
    assert (second, set(alerts.standing)) == ({}, {"silence"})
    alerts, third = step(alerts, RULES, replace(CALM, now=130.0, heard=130.0))
    assert (third, alerts.standing) == ({}, {})
    assert set(step(alerts, RULES, replace(silent, now=200.0))[1]) == {"silence"}


@pytest.mark.parametrize(
    ("levels", "grows"),
    [
        ([0] * 12, False),
        ([500] * 12, False),
        ([1, 9, 2, 9, 3, 9, 4, 9, 5, 9], True),
        ([1, 9, 2, 9, 0, 9, 4, 9, 5, 9], False),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1, 0], False),
    ],
)
def test_a_queue_grows_when_even_its_lows_rise(levels: list[int], grows: bool) -> None:
    alerts, raised = Alerts(), {}
    for second, waiting in enumerate(levels):
        seen = replace(CALM, now=5.0 * second, heard=5.0 * second, waiting=waiting)
        alerts, new = step(alerts, RULES, seen)
        raised |= new
    assert ("queue" in raised) == grows


@pytest.mark.parametrize("change", [{"silent_rounds": 1.0}, {"diverged": inf}, {"spent_share": 0.0}])
def test_rules_out_of_range_are_named(change: dict) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(change))):
        AlertRules(**change)

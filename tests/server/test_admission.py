import pytest

from server.admission import IDLE_SECONDS, SILENT_SECONDS, SLOWEST, Admission
from wire_protocol.errors import InvalidValueError


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    return Admission(100, clock)


def enter(admission: Admission, devices: str, cost: int = 100) -> list[str]:
    for device in devices:
        admission.enter(device, cost)
    return admission.admit()


def after(admission: Admission, clock: Clock, seconds: float) -> tuple[list[str], list[str]]:
    clock.now += seconds
    return admission.take_back_lapsed(), admission.admit()


def test_first_come_first_served_and_nobody_is_passed_over_for_being_large(admission: Admission) -> None:
    assert enter(admission, "a", 60) == ["a"]
    assert enter(admission, "b", 60) == []
    assert enter(admission, "c", 10) == []
    admission.hand_over("a", 60)
    assert admission.admit() == []
    admission.release(60)
    assert admission.admit() == ["b", "c"]
    assert admission.outstanding == 70


def test_announcing_again_keeps_the_place(admission: Admission) -> None:
    enter(admission, "abc")
    enter(admission, "c" * 50)
    enter(admission, "b" * 3, cost=90)
    admission.hand_over("a", 100)
    admission.release(100)
    assert admission.admit() == ["b"]
    assert admission.outstanding == 90


def test_who_lets_a_grant_pass_comes_after_all_who_did_not(admission: Admission, clock: Clock) -> None:
    enter(admission, "wbc")
    assert after(admission, clock, IDLE_SECONDS) == (["w"], ["b"])
    enter(admission, "xyz")
    order = []
    for device in "bcxyz":
        assert admission.holds(device)
        admission.hand_over(device, 100)
        admission.release(100)
        order += admission.admit()
    assert order == ["c", "x", "y", "z", "w"]


def test_a_payload_that_came_whole_makes_up_for_grants_let_pass(admission: Admission, clock: Clock) -> None:
    enter(admission, "wb")
    assert after(admission, clock, IDLE_SECONDS) == (["w"], ["b"])
    admission.hand_over("w", 100)
    admission.hand_over("b", 100)
    admission.release(200)
    assert enter(admission, "cwd") == ["c"]
    admission.hand_over("c", 100)
    admission.release(100)
    assert admission.admit() == ["w"]


def test_a_slow_device_keeps_its_grant_and_a_trickle_does_not(admission: Admission, clock: Clock) -> None:
    enter(admission, "ab")
    for _ in range(10):
        admission.used("a", 15 * SLOWEST)
        enter(admission, "b")
        assert after(admission, clock, 15) == ([], [])
    assert after(admission, clock, IDLE_SECONDS) == (["a"], ["b"])
    enter(admission, "a")
    for _ in range(2):
        admission.used("b", 1)
        assert after(admission, clock, IDLE_SECONDS / 2 - 1) == ([], [])
    admission.used("b", 1)
    assert after(admission, clock, 3) == (["b"], ["a"])


def test_who_says_nothing_for_long_leaves_the_queue_and_may_come_back(admission: Admission, clock: Clock) -> None:
    enter(admission, "abc")
    clock.now += SILENT_SECONDS
    enter(admission, "c")
    clock.now += 1
    admission.hand_over("a", 100)
    admission.release(100)
    assert admission.admit() == ["c"]
    admission.hand_over("c", 100)
    admission.release(100)
    assert enter(admission, "b") == ["b"]


def test_the_queue_stays_short_however_often_devices_come_and_go(admission: Admission) -> None:
    enter(admission, "ab")
    for _ in range(1000):
        admission.enter("c", 1)
        admission.hand_over("c", 1)
        admission.release(1)
    assert len(admission._queue) < 30


def test_who_leaves_gives_its_place_up_and_what_was_handed_over_stays(admission: Admission) -> None:
    enter(admission, "abc", 40)
    admission.hand_over("a", 40)
    for device in "abc":
        admission.leave(device)
    assert admission.outstanding == 40
    assert not admission.holds("b")
    assert admission.admit() == []
    admission.release(40)
    assert admission.outstanding == 0


def test_a_budget_must_hold_something(clock: Clock) -> None:
    with pytest.raises(InvalidValueError, match="budget_bytes must be at least 1, got 0"):
        Admission(0, clock)

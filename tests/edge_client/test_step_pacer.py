"""Steps on a clock that only resting and working move."""

from dataclasses import dataclass, field
from threading import Event

import numpy as np
import pytest

from edge_client.errors import PausedError, StoppedError
from edge_client.limits import Pause
from edge_client.machine_watch import LOOK_SECONDS
from edge_client.pace import Pace
from edge_client.training.step_pacer import StepPacer
from wire_protocol.examples import Examples

BATCHES = [Examples(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))] * 4
HOT = Pace(0.1, Pause("temperature", "the device is too hot"))


@dataclass
class Machine:
    """Its `paces` change at moments; it is the flag that a pacer rests on, too."""

    paces: dict[float, Pace]
    deadline: float = 1e9
    now: float = 0.0
    stopped_at: float = 1e9
    moved: list[float] = field(default_factory=list)
    began: list[float] = field(default_factory=list)

    def wait(self, timeout: float) -> bool:
        self.now = min(self.now + timeout, max(self.now, self.stopped_at))
        return self.is_set()

    def is_set(self) -> bool:
        return self.now >= self.stopped_at

    def pacer(self) -> StepPacer:
        return StepPacer(
            self, self.pace, lambda: self.deadline - self.now, lambda: self.moved.append(self.now), lambda: self.now
        )

    def pace(self) -> Pace:
        return self.paces[max(moment for moment in self.paces if moment <= self.now)]

    def trained(self, steps: int = len(BATCHES), seconds: float = 1.0) -> list[float]:
        return self.follow(self.pacer(), steps, seconds)

    def follow(self, pacer: StepPacer, steps: int = len(BATCHES), seconds: float = 1.0) -> list[float]:
        for _ in pacer.paced(BATCHES, steps):
            self.began.append(self.now)
            self.now += seconds
        return self.began


def test_at_full_speed_step_follows_step():
    assert Machine({0: Pace()}).trained() == [0, 1, 2, 3]


def test_a_share_of_the_time_is_rested():
    machine = Machine({0: Pace(), 2: Pace(0.25)})
    assert machine.trained() == [0, 1, 5, 9]
    assert Machine({0: Pace(0.1)}).trained() == [0, 10, 20, 30]


def test_a_training_that_must_rest_goes_on_when_it_may():
    machine = Machine({0: Pace(), 1.5: HOT, 21.5: Pace()})
    began = machine.trained()
    assert began[:2] == [0, 1]
    assert 21.5 <= began[2] <= 21.5 + LOOK_SECONDS
    assert len(began) == 4
    assert max(np.diff(machine.moved)) <= 9, "a watchdog would take a rest for a hang"


def test_where_the_deadline_leaves_no_time_for_the_steps_that_are_left_the_round_is_declined():
    machine = Machine({0: Pace(), 1.5: HOT}, deadline=60)
    with pytest.raises(PausedError, match="the device is too hot, and the round's deadline leaves no time to wait"):
        machine.trained()
    assert 60 - LOOK_SECONDS - 2 <= machine.now <= 58 + LOOK_SECONDS
    late = Machine({0: Pace(), 1.5: HOT}, deadline=60)
    with pytest.raises(PausedError):
        late.trained(steps=50)
    assert late.now < 20


@pytest.mark.parametrize("paces", [{0: Pace(), 1.5: HOT}, {0: Pace(0.1)}])
def test_a_stop_ends_a_rest(paces):
    machine = Machine(paces, stopped_at=8.0)
    with pytest.raises(StoppedError):
        machine.trained()
    assert machine.now == 8.0


def test_what_is_measured_is_not_slowed_down_and_is_ended_all_the_same():
    machine = Machine({0: HOT}, stopped_at=2.0)
    with pytest.raises(StoppedError):
        machine.follow(machine.pacer().unhurried())
    assert machine.began == [0, 1]


def test_the_time_left_is_that_which_may_be_worked_in():
    assert Machine({0: Pace(0.5)}, deadline=60).pacer().working_seconds_left() == 30
    assert StepPacer(Event()).working_seconds_left() == float("inf")

"""Orders to the round state machine, and what no sequence of events may break."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.coordinator import (
    AbandonRound,
    Applying,
    CloseRound,
    Collecting,
    DeviceOffline,
    DeviceOnline,
    DropRound,
    Event,
    ExtendRound,
    Finish,
    Finished,
    GiveUp,
    OpenRound,
    Past,
    Pause,
    Resume,
    ResyncNow,
    RoundApplied,
    Schedule,
    State,
    Stop,
    Tick,
    UpdateCounted,
    UpdateRefused,
    Waiting,
    begin,
    step,
)

SCHEDULE = Schedule(rounds=3, resync_every=5, min_devices=1, round_seconds=10.0)
A = DeviceOnline("a")
COUNTED = UpdateCounted("a", 1)


def play(state: State, *events: Event) -> tuple[State, list[object]]:
    commands: list[object] = []
    for event in events:
        state, new = step(state, event)
        commands += new
    return state, commands


OPENED = OpenRound(1, 1, 10.0)
CLOSED = [A, Tick(0), COUNTED, Tick(1), RoundApplied(1)]

STORIES = {
    "a paused run opens nothing": ([Pause(), A, Tick(0)], [], Waiting(1)),
    "a resumed run opens again": ([Pause(), A, Tick(0), Resume(), Tick(5)], [OpenRound(1, 1, 15.0)], None),
    "a round that is open when the run is paused goes on to its close": (
        [A, Tick(0), Pause(), COUNTED, Tick(1), RoundApplied(1), Tick(2)],
        [OPENED, CloseRound(1)],
        Waiting(1),
    ),
    "without its quorum it is prolonged": ([A, Tick(0), Pause(), Tick(10)], [OPENED, ExtendRound(1, 20.0)], None),
    "a run stopped before its first round is over": ([Stop(), A, Tick(0), Tick(1)], [Finish()], Finished()),
    "a stopped run drops its round": (
        [A, Tick(0), COUNTED, Stop(), Tick(1), Tick(1), Tick(2)],
        [OPENED, DropRound(1), Finish()],
        Finished(),
    ),
    "a round that is being applied is applied": (
        [A, Tick(0), COUNTED, Tick(1), Stop(), Tick(2), RoundApplied(1), Tick(3)],
        [OPENED, CloseRound(1), Finish()],
        Finished(),
    ),
    "nothing brings a stopped run back": (
        [Stop(), A, Tick(0), Resume(), ResyncNow(), Tick(1)],
        [Finish()],
        Finished(),
    ),
    "a resync is made at once, and once": (
        [*CLOSED, ResyncNow(), Tick(2), UpdateCounted("a", 2), Tick(3), RoundApplied(2), Tick(4)],
        [OPENED, CloseRound(1), OpenRound(2, 2, 12.0), CloseRound(2), OpenRound(3, 2, 14.0)],
        None,
    ),
    "a resync ordered in a round is the next one": (
        [A, Tick(0), ResyncNow(), COUNTED, Tick(1), RoundApplied(1), Tick(2)],
        [OPENED, CloseRound(1), OpenRound(2, 2, 12.0)],
        None,
    ),
    "out of turn nothing opens": ([A, Tick(0, turn=False)], [], Waiting(1)),
    "out of turn a round is not prolonged, and closes": (
        [A, Tick(0), Tick(10, turn=False), COUNTED, Tick(11, turn=False)],
        [OPENED, CloseRound(1)],
        Applying(1),
    ),
    "in its turn again it is prolonged": (
        [A, Tick(0), Tick(10, turn=False), Tick(30)],
        [OPENED, ExtendRound(1, 40.0)],
        None,
    ),
}


@pytest.mark.parametrize(("events", "commands", "phase"), STORIES.values(), ids=STORIES.keys())
def test_story(events: list[Event], commands: list[object], phase: object) -> None:
    state, given_out = play(begin(SCHEDULE), *events)
    assert given_out == commands
    assert phase is None or state.phase == phase


def test_orders_hold_after_a_restart() -> None:
    past = Past(closed=1, resync_round=1, since_resync=1, online=frozenset("a"), paused=True, resync_due=True)
    state, commands = play(begin(SCHEDULE, 2, past), Tick(0))
    assert commands == []
    assert play(state, Resume(), Tick(0))[1] == [OpenRound(2, 2, 10.0)]


DEVICES, NUMBERS = st.sampled_from("abc"), st.integers(1, 6)
EVENTS = st.lists(
    st.one_of(
        st.builds(DeviceOnline, DEVICES),
        st.builds(DeviceOffline, DEVICES),
        st.builds(UpdateCounted, DEVICES, NUMBERS),
        st.builds(UpdateRefused, DEVICES, NUMBERS),
        st.builds(RoundApplied, NUMBERS),
        st.just(Pause()),
        st.just(Resume()),
        st.sampled_from([Stop(), ResyncNow(), ResyncNow(), ResyncNow()]),
        st.builds(Tick, st.integers(0, 40).map(float), st.sampled_from([True, True, False])),
        st.builds(Tick, st.integers(0, 40).map(float)),
    ),
    max_size=80,
)
SCHEDULES = st.builds(
    lambda **changes: replace(SCHEDULE, **changes),
    min_devices=st.integers(1, 2),
    quorum=st.integers(1, 2),
    resync_every=st.integers(1, 3),
    give_up=st.booleans(),
    participation=st.sampled_from([1.0, 0.5]),
    buffer_goal=st.sampled_from([None, 1, 2]),
    trial_round=st.booleans(),
)


class Witness:
    """Watches a run, and knows what must not be."""

    def __init__(self, schedule: Schedule) -> None:
        self.state = begin(schedule)
        self.open: int | None = None
        self.opened: list[int] = []
        self.applying: int | None = None
        self.closed = 0
        self.paused = self.stopped = self.over = self.resync_due = False

    def tell(self, event: Event) -> None:
        self.paused = isinstance(event, Pause) or (self.paused and not isinstance(event, Resume))
        self.stopped |= isinstance(event, Stop)
        self.resync_due |= isinstance(event, ResyncNow) and not self.over
        if self.applying is not None and event == RoundApplied(self.applying):
            self.applying, self.closed = None, self.closed + 1
        self.state, commands = step(self.state, event)
        assert isinstance(event, Tick) or not commands
        for command in commands:
            assert isinstance(event, Tick)
            self.check(command, event)
        assert (self.open is not None) == isinstance(self.state.phase, Collecting)
        assert self.over == isinstance(self.state.phase, Finished)
        assert self.state.closed == self.closed

    def check(self, command: object, tick: Tick) -> None:
        assert not self.over
        match command:
            case OpenRound(number, resync_round):
                assert tick.turn
                assert not self.paused
                assert not self.stopped
                assert self.open is None
                assert self.applying is None
                assert all(number > earlier for earlier in self.opened)
                assert resync_round in (*self.opened, number)
                assert resync_round == number or not self.resync_due
                self.open, self.resync_due = number, False
                self.opened.append(number)
            case ExtendRound(number, deadline):
                assert number == self.open
                assert tick.turn
                assert deadline > tick.now
            case CloseRound() | AbandonRound() | DropRound() | GiveUp():
                assert command.round == self.open
                assert isinstance(command, DropRound) == self.stopped
                self.open = None
                self.applying = command.round if isinstance(command, CloseRound) else None
                self.over = isinstance(command, GiveUp)
            case Finish():
                assert self.open is None
                assert self.applying is None
                assert self.stopped or self.closed == self.state.schedule.rounds
                self.over = True


@given(SCHEDULES, EVENTS)
def test_no_sequence_of_events_breaks_a_run(schedule: Schedule, events: list[Event]) -> None:
    witness = Witness(schedule)
    for event in events:
        witness.tell(event)
    witness.tell(Stop())
    for event in (Tick(50), RoundApplied(witness.applying or 1), Tick(50), Tick(50)):
        witness.tell(event)
    assert witness.over

from dataclasses import replace

import pytest

from server.coordinator import (
    AbandonRound,
    Applying,
    CloseRound,
    Collecting,
    DeviceOffline,
    DeviceOnline,
    ExtendRound,
    Finish,
    Finished,
    GiveUp,
    OpenRound,
    Past,
    RoundApplied,
    Schedule,
    State,
    Tick,
    UpdateCounted,
    UpdateRefused,
    Waiting,
    begin,
    step,
)
from wire_protocol.errors import InvalidValueError
from wire_protocol.participation import takes_part

SCHEDULE = Schedule(rounds=2, resync_every=5, min_devices=2, round_seconds=10.0)
A, B, C = DeviceOnline("a"), DeviceOnline("b"), DeviceOnline("c")
A_GONE, B_GONE = DeviceOffline("a"), DeviceOffline("b")


def counted(device: str, number: int = 1) -> UpdateCounted:
    return UpdateCounted(device, number)


def play(state: State, *events: object) -> tuple[State, list[object]]:
    commands: list[object] = []
    for event in events:
        state, new = step(state, event)
        commands += new
    return state, commands


OPENED = OpenRound(round=1, resync_round=1, deadline=10.0)

SECOND_ROUND = [Tick(1), counted("a", 2), counted("b", 2), Tick(2), RoundApplied(2), Tick(2), Tick(3)]

STORIES = {
    "waits for enough devices": ([A, Tick(0)], [], Waiting(2)),
    "the same device twice is one device": ([A, A, Tick(0)], [], Waiting(2)),
    "a device that left does not count": ([A, B, A_GONE, Tick(0)], [], Waiting(2)),
    "opens when enough are there": (
        [A, B, Tick(0)],
        [OPENED],
        Collecting(1, 10.0, frozenset("ab")),
    ),
    "facts alone decide nothing": ([A, B], [], Waiting(2)),
    "waits for all": (
        [A, B, Tick(0), counted("a"), Tick(9)],
        [OPENED],
        Collecting(1, 10.0, frozenset("ab"), frozenset("a")),
    ),
    "closes when all are counted": (
        [A, B, Tick(0), counted("a"), counted("b"), Tick(1)],
        [OPENED, CloseRound(1)],
        Applying(1),
    ),
    "closes at the deadline with one update": (
        [A, B, Tick(0), counted("a"), Tick(10)],
        [OPENED, CloseRound(1)],
        Applying(1),
    ),
    "an empty round is extended": (
        [A, B, Tick(0), Tick(10.5)],
        [OPENED, ExtendRound(1, 20.5)],
        Collecting(1, 20.5, frozenset("ab")),
    ),
    "an extended round is extended again": (
        [A, B, Tick(0), Tick(10), Tick(15), Tick(20)],
        [OPENED, ExtendRound(1, 20), ExtendRound(1, 30)],
        Collecting(1, 30, frozenset("ab")),
    ),
    "an extended round closes with its first update": (
        [A, B, Tick(0), Tick(10), A_GONE, counted("b"), Tick(11)],
        [OPENED, ExtendRound(1, 20), CloseRound(1)],
        Applying(1),
    ),
    "does not wait for a device that went offline": (
        [A, B, Tick(0), counted("a"), B_GONE, Tick(1)],
        [OPENED, CloseRound(1)],
        Applying(1),
    ),
    "waits again for a device that came back": (
        [A, B, Tick(0), B_GONE, B, counted("a"), Tick(1)],
        [OPENED],
        Collecting(1, 10.0, frozenset("ab"), frozenset("a")),
    ),
    "a counted device may leave": (
        [A, B, Tick(0), counted("a"), A_GONE, Tick(1), counted("b"), Tick(2)],
        [OPENED, CloseRound(1)],
        Applying(1),
    ),
    "all gone and nobody counted: stays open": (
        [A, B, Tick(0), A_GONE, B_GONE, Tick(1)],
        [OPENED],
        Collecting(1, 10.0, frozenset("ab")),
    ),
    "all gone, one counted: closes": (
        [A, B, Tick(0), counted("a"), A_GONE, B_GONE, Tick(1)],
        [OPENED, CloseRound(1)],
        Applying(1),
    ),
    "does not wait for a device that joined later": (
        [A, B, Tick(0), C, counted("a"), counted("b"), Tick(1)],
        [OPENED, CloseRound(1)],
        Applying(1),
    ),
    "does not wait for a refused device": (
        [A, B, Tick(0), UpdateRefused("b", 1), counted("a"), Tick(1)],
        [OPENED, CloseRound(1)],
        Applying(1),
    ),
    "refused alone closes nothing": (
        [A, B, Tick(0), UpdateRefused("a", 1), UpdateRefused("b", 1), Tick(1)],
        [OPENED],
        Collecting(1, 10.0, frozenset("ab"), refused=frozenset("ab")),
    ),
    "everyone online refused: a new round at the deadline": (
        [A, B, Tick(0), UpdateRefused("a", 1), B_GONE, Tick(9), Tick(10), Tick(10)],
        [OPENED, AbandonRound(1), OpenRound(2, 1, 20.0)],
        Collecting(2, 20.0, frozenset("a")),
    ),
    "one online not refused: waited for": (
        [A, B, Tick(0), UpdateRefused("a", 1), C, B_GONE, Tick(10)],
        [OPENED, ExtendRound(1, 20.0)],
        Collecting(1, 20.0, frozenset("ab"), refused=frozenset("a")),
    ),
    "refused and gone, nobody else online: waits on": (
        [A, B, Tick(0), UpdateRefused("a", 1), A_GONE, B_GONE, Tick(10)],
        [OPENED, ExtendRound(1, 20.0)],
        Collecting(1, 20.0, frozenset("ab"), refused=frozenset("a")),
    ),
    "a round given up counts for nothing": (
        [A, B, Tick(0), UpdateRefused("a", 1), UpdateRefused("b", 1), Tick(10), Tick(10)]
        + [event for n in (2, 3) for event in (counted("a", n), counted("b", n), Tick(11), RoundApplied(n), Tick(11))],
        [OPENED, AbandonRound(1), OpenRound(2, 1, 20.0), CloseRound(2), OpenRound(3, 1, 21.0), CloseRound(3), Finish()],
        Finished(),
    ),
    "updates of another round are not heard": (
        [A, B, Tick(0), counted("a", 7), UpdateRefused("b", 0), Tick(1)],
        [OPENED],
        Collecting(1, 10.0, frozenset("ab")),
    ),
    "nothing opens while a round is applied": (
        [A, B, Tick(0), counted("a"), counted("b"), Tick(1), Tick(2), Tick(100)],
        [OPENED, CloseRound(1)],
        Applying(1),
    ),
    "a round applied that is not being applied changes nothing": (
        [A, B, Tick(0), RoundApplied(1), Tick(1)],
        [OPENED],
        Collecting(1, 10.0, frozenset("ab")),
    ),
    "later rounds need one device only": (
        [A, B, Tick(0), counted("a"), counted("b"), Tick(1), RoundApplied(1), B_GONE, Tick(2)],
        [OPENED, CloseRound(1), OpenRound(2, 1, 12.0)],
        Collecting(2, 12.0, frozenset("a")),
    ),
    "later rounds need at least one device": (
        [A, B, Tick(0), counted("a"), counted("b"), Tick(1), RoundApplied(1), A_GONE, B_GONE, Tick(2)],
        [OPENED, CloseRound(1)],
        Waiting(1),
    ),
    "finishes after its rounds, once": (
        [A, B, Tick(0), counted("a"), counted("b"), Tick(1), RoundApplied(1), *SECOND_ROUND],
        [OPENED, CloseRound(1), OpenRound(2, 1, 11.0), CloseRound(2), Finish()],
        Finished(),
    ),
}


@pytest.mark.parametrize(("events", "commands", "phase"), STORIES.values(), ids=STORIES.keys())
def test_story(events: list[object], commands: list[object], phase: object) -> None:
    state, given = play(begin(SCHEDULE), *events)
    assert given == commands
    assert state.phase == phase


@pytest.mark.parametrize("decided_by_itself", ["collecting", "applying"])
def test_a_tick_that_decides_nothing_changes_nothing(decided_by_itself: str) -> None:
    events = [A, B, Tick(0), counted("a")] + ([counted("b"), Tick(1)] if decided_by_itself == "applying" else [])
    state, _ = play(begin(SCHEDULE), *events)
    assert step(state, Tick(2)) == (state, ())


def run_rounds(state: State, rounds: int) -> list[OpenRound]:
    opened = []
    state, commands = play(state, A, Tick(0))
    for _ in range(rounds):
        (command,) = commands
        opened.append(command)
        state, commands = play(state, counted("a", command.round), Tick(1), RoundApplied(command.round), Tick(2))
        commands = commands[1:]
    return opened


@pytest.mark.parametrize(
    ("every", "next_round", "closed", "expected"),
    [
        (3, 1, 0, [1, 1, 1, 4, 4, 4, 7]),
        (1, 1, 0, [1, 2, 3, 4, 5, 6, 7]),
        (100, 1, 0, [1, 1, 1, 1, 1, 1, 1]),
        (3, 6, 4, [4, 7, 7, 7, 10, 10, 10]),
        (3, 9, 4, [4, 10, 10, 10, 13, 13, 13]),
    ],
    ids=["every third", "every round", "only the first", "as before after a restart", "a restart, numbers passed over"],
)
def test_resync_rounds(every: int, next_round: int, closed: int, expected: list[int]) -> None:
    schedule = replace(SCHEDULE, rounds=100, resync_every=every, min_devices=1)
    past = Past(closed, resync_round=4 if closed else None, since_resync=2 if closed else 0)
    opened = run_rounds(begin(schedule, next_round, past), len(expected))
    assert [command.resync_round for command in opened] == expected
    assert [command.round for command in opened] == list(range(next_round, next_round + len(expected)))


def test_a_run_already_over_finishes_at_once() -> None:
    state, commands = play(begin(SCHEDULE, 4, Past(closed=2)), Tick(0))
    assert commands == [Finish()]
    assert state.phase == Finished()


def test_after_a_restart_only_the_rounds_left_are_run() -> None:
    state, commands = play(
        begin(SCHEDULE, 3, Past(closed=1, resync_round=1)), A, B, Tick(0), counted("a", 3), counted("b", 3)
    )
    assert commands == [OpenRound(3, 1, 10.0)]
    _, commands = play(state, Tick(1), RoundApplied(3), Tick(2))
    assert commands == [CloseRound(3), Finish()]


@pytest.mark.parametrize("field", ["resync_every", "min_devices", "round_seconds", "quorum"])
def test_schedule_names_what_is_wrong(field: str) -> None:
    with pytest.raises(InvalidValueError, match=f"{field} must be .*, got 0"):
        replace(SCHEDULE, **{field: 0})


def test_a_run_that_gives_up_ends_as_soon_as_everyone_online_was_refused() -> None:
    giving_up = begin(Schedule(rounds=2, resync_every=5, min_devices=2, round_seconds=10.0, give_up=True))
    refused = [UpdateRefused("a", 1), UpdateRefused("b", 1)]
    assert play(giving_up, A, B, Tick(0), refused[0], Tick(1))[1] == [OPENED]
    state, commands = play(giving_up, A, B, Tick(0), *refused, Tick(1))
    assert (commands, state.phase) == ([OPENED, GiveUp(1)], Finished())
    assert play(giving_up, A, B, Tick(0), refused[0], counted("b"), Tick(1))[1] == [OPENED, CloseRound(1)]
    assert play(begin(SCHEDULE), A, B, Tick(0), *refused, Tick(1))[1] == [OPENED]


QUORUM_STORIES = {
    "all heard but too few counted: waits": (
        [counted("a"), UpdateRefused("b", 1), Tick(9)],
        [],
        Collecting(1, 10.0, frozenset("ab"), frozenset("a"), frozenset("b")),
    ),
    "too few at the deadline: prolonged": (
        [counted("a"), Tick(10)],
        [ExtendRound(1, 20.0)],
        Collecting(1, 20.0, frozenset("ab"), frozenset("a")),
    ),
    "a device that joined later makes the quorum": (
        [counted("a"), UpdateRefused("b", 1), Tick(10), counted("c"), Tick(11)],
        [ExtendRound(1, 20.0), CloseRound(1)],
        Applying(1),
    ),
    "enough at the deadline: closes": (
        [C, counted("a"), counted("c"), Tick(9), Tick(10)],
        [CloseRound(1)],
        Applying(1),
    ),
}


@pytest.mark.parametrize(("events", "commands", "phase"), QUORUM_STORIES.values(), ids=QUORUM_STORIES.keys())
def test_a_round_closes_only_with_its_quorum(events: list[object], commands: list[object], phase: object) -> None:
    state, _ = play(begin(replace(SCHEDULE, quorum=2)), A, B, Tick(0))
    state, given = play(state, *events)
    assert given == commands
    assert state.phase == phase


BUFFERED = replace(SCHEDULE, buffer_goal=2)
SECOND_OPENED = OpenRound(2, 1, 11.0)
LATE_A = (1, "a")

BUFFERED_STORIES = {
    "closes at the goal, without the others": (
        [counted("a", 2), counted("c", 2), Tick(2)],
        [CloseRound(2)],
        Applying(2),
    ),
    "a late update counts for the goal": ([counted("a", 1), counted("b", 2), Tick(2)], [CloseRound(2)], Applying(2)),
    "late and fresh of one device are two updates": (
        [counted("a", 1), counted("a", 2), Tick(2)],
        [CloseRound(2)],
        Applying(2),
    ),
    "a late update counts once, and its device is not heard": (
        [counted("a", 1), counted("a", 1), B_GONE, Tick(2)],
        [],
        Collecting(2, 11.0, frozenset("abc"), late=frozenset({LATE_A})),
    ),
    "closes below the goal where all are heard": (
        [counted("a", 1), UpdateRefused("b", 2), UpdateRefused("c", 2), UpdateRefused("a", 2), Tick(2)],
        [CloseRound(2)],
        Applying(2),
    ),
    "closes at the deadline with a late update": ([counted("a", 1), Tick(11)], [CloseRound(2)], Applying(2)),
    "without any at the deadline: prolonged": (
        [UpdateRefused("a", 1), Tick(11)],
        [ExtendRound(2, 21.0)],
        Collecting(2, 21.0, frozenset("abc")),
    ),
    "everyone refused but a late update counted: not given up": (
        [counted("a", 1), UpdateRefused("a", 2), UpdateRefused("b", 2), B_GONE, DeviceOffline("c"), Tick(2)],
        [CloseRound(2)],
        Applying(2),
    ),
    "updates of rounds to come are not heard": (
        [counted("a", 3), counted("b", 3), Tick(2)],
        [],
        Collecting(2, 11.0, frozenset("abc")),
    ),
}


@pytest.mark.parametrize(("events", "commands", "phase"), BUFFERED_STORIES.values(), ids=BUFFERED_STORIES.keys())
def test_a_buffered_round(events: list[object], commands: list[object], phase: object) -> None:
    first = [A, B, C, Tick(0), counted("b"), counted("c"), Tick(1), RoundApplied(1), Tick(1)]
    state, given = play(begin(BUFFERED), *first)
    assert given == [OPENED, CloseRound(1), SECOND_OPENED]
    state, given = play(state, *events)
    assert given == commands
    assert state.phase == phase


def test_a_quorum_above_the_goal_is_waited_for() -> None:
    state, _ = play(begin(replace(BUFFERED, quorum=3)), A, B, C, Tick(0), counted("a"), counted("b"), Tick(1))
    assert isinstance(state.phase, Collecting)
    assert play(state, counted("c"), Tick(1))[1] == [CloseRound(1)]


def test_in_a_synchronous_run_late_updates_are_not_heard() -> None:
    first = [A, B, Tick(0), counted("a"), counted("b"), Tick(1), RoundApplied(1), Tick(1)]
    state, _ = play(begin(SCHEDULE), *first)
    assert play(state, counted("a"), Tick(2)) == (state, [])


def test_a_buffer_goal_is_checked() -> None:
    with pytest.raises(InvalidValueError, match="buffer_goal must be at least 1, got 0"):
        replace(SCHEDULE, buffer_goal=0)


RESTORED = Past(
    closed=1,
    resync_round=1,
    online=frozenset("ab"),
    open_round=Collecting(2, 5.0, frozenset("ab"), counted=frozenset("a")),
)

RESTORED_STORIES = {
    "those expected are waited for": ([Tick(0), Tick(4)], []),
    "it closes when the last is counted": ([Tick(0), counted("b", 2), Tick(1)], [CloseRound(2)]),
    "it closes without a device that is offline": ([Tick(0), B_GONE, Tick(1)], [CloseRound(2)]),
    "it closes at its deadline": ([Tick(5)], [CloseRound(2)]),
    "the next is no resync": (
        [counted("b", 2), Tick(1), RoundApplied(2), Tick(2)],
        [CloseRound(2), OpenRound(3, 1, 12.0)],
    ),
}


@pytest.mark.parametrize(("events", "commands"), RESTORED_STORIES.values(), ids=RESTORED_STORIES.keys())
def test_a_round_that_was_open_goes_on(events: list[object], commands: list[object]) -> None:
    assert play(begin(replace(SCHEDULE, rounds=3), 3, RESTORED), *events)[1] == commands


def test_after_a_kill_between_rounds_those_online_are_presumed_so() -> None:
    past = Past(closed=1, resync_round=1, online=frozenset("ab"))
    assert play(begin(SCHEDULE, 2, past), Tick(0))[1] == [OpenRound(2, 1, 10.0)]


SAMPLED = replace(SCHEDULE, participation=0.3, participation_seed=5, min_devices=1)
FLEET = [f"device-{number}" for number in range(20)]


def drawn(number: int, online: list[str] = FLEET) -> frozenset[str]:
    return frozenset(device for device in online if takes_part(0.3, 5, number, device))


def all_online(schedule: Schedule, online: list[str] = FLEET) -> State:
    return play(begin(schedule), *map(DeviceOnline, online))[0]


def test_only_those_drawn_are_waited_for() -> None:
    state, commands = play(all_online(SAMPLED), Tick(0))
    assert commands == [OPENED]
    assert 1 < len(drawn(1)) < len(FLEET)
    assert state.phase == Collecting(1, 10.0, drawn(1))
    heard = [counted(device) for device in drawn(1)]
    assert play(state, *heard[:-1], Tick(1))[1] == []
    assert play(state, *heard, Tick(1))[1] == [CloseRound(1)]


@pytest.mark.parametrize("quorum", [1, 5])
def test_numbers_that_draw_too_few_are_passed_over(quorum: int) -> None:
    online = FLEET[:8]
    number = next(number for number in range(1, 1000) if len(drawn(number, online)) >= quorum)
    state, commands = play(all_online(replace(SAMPLED, quorum=quorum), online), Tick(0))
    assert commands == [OpenRound(number, number, 10.0)]
    assert state.phase == Collecting(number, 10.0, drawn(number, online))
    assert state.next_round == number + 1


@pytest.mark.parametrize(("next_round", "closed", "expected"), [
    (1, 0, [1, 2, 2, 4, 4]), (4, 1, [4, 4, 6, 6, 8]), (4, 2, [4, 4, 6, 6, 8]),
])  # fmt: skip
def test_after_a_trial_round_neurons_are_chosen_again(next_round: int, closed: int, expected: list[int]) -> None:
    schedule = replace(SCHEDULE, rounds=closed + 5, resync_every=2, min_devices=1, trial_round=True)
    past = Past(closed, resync_round=1 if closed else None, since_resync=2 if closed > 1 else closed)
    _, commands = play(begin(schedule, next_round, past), A, *_rounds_of_a(next_round, 5))
    assert [command.resync_round for command in commands if isinstance(command, OpenRound)] == expected


def _rounds_of_a(first: int, count: int) -> list[object]:
    return [
        event
        for number in range(first, first + count)
        for event in (Tick(0), counted("a", number), Tick(0), RoundApplied(number))
    ]


def test_numbers_passed_over_bring_no_resync_nearer() -> None:
    online = FLEET[:4]
    state, commands = play(all_online(replace(SAMPLED, rounds=100, quorum=3, resync_every=3), online), Tick(0))
    chosen = []
    for _ in range(9):
        (command,) = commands
        chosen.append(command.round == command.resync_round)
        updates = [counted(device, command.round) for device in drawn(command.round, online)]
        state, _ = play(state, *updates, Tick(1), RoundApplied(command.round))
        state, commands = play(state, Tick(1))
    assert command.round > 3 * 9
    assert chosen == [True, False, False] * 3


def test_a_quorum_larger_than_the_fleet_asks_for_all_of_it() -> None:
    number = next(number for number in range(1, 1000) if len(drawn(number, ["a", "b"])) == 2)
    assert play(all_online(replace(SAMPLED, quorum=5), ["a", "b"]), Tick(0))[1] == [OpenRound(number, number, 10.0)]


def test_a_tick_tries_many_numbers_but_not_all_and_the_next_goes_on() -> None:
    hopeless = replace(SAMPLED, participation=2**-53)
    state, commands = play(all_online(hopeless, ["a"]), Tick(0))
    again, more = play(state, Tick(1))
    assert commands + more == []
    assert state.phase == Waiting(1)
    assert again.next_round == 2 * state.next_round - 1 > 1000
    assert state.may_open
    assert not play(begin(SAMPLED), Tick(0))[0].may_open
    assert not play(all_online(SAMPLED), Tick(0))[0].may_open


def test_a_round_whose_drawn_devices_left_is_given_up_at_its_deadline_and_another_opened() -> None:
    state, _ = play(all_online(SAMPLED), Tick(0), *map(DeviceOffline, drawn(1)))
    assert play(state, Tick(9))[1] == []
    left = [device for device in FLEET if device not in drawn(1)]
    number = next(number for number in range(2, 1000) if drawn(number, left))
    state, commands = play(state, Tick(10), Tick(10))
    assert commands == [AbandonRound(1), OpenRound(number, 1, 20.0)]
    assert state.phase == Collecting(number, 20.0, drawn(number, left))


def all_refuse(state: State, command: OpenRound, now: float) -> tuple[State, list[object]]:
    assert isinstance(state.phase, Collecting)
    return play(state, *(UpdateRefused(device, command.round) for device in state.phase.expected), Tick(now))


def test_a_sampled_run_gives_up_only_when_everyone_online_was_refused_and_not_when_the_drawn_left() -> None:
    state, (command,) = play(all_online(replace(SAMPLED, give_up=True)), Tick(0))
    assert play(state, *map(DeviceOffline, drawn(1)), Tick(1), Tick(10))[1] == [AbandonRound(1)]
    refused = drawn(1)
    while not refused >= set(FLEET):
        state, given = all_refuse(state, command, 1.0)
        assert given == [AbandonRound(command.round)]
        state, (command,) = play(state, Tick(1))
        refused |= drawn(command.round)
    state, given = all_refuse(state, command, 1.0)
    assert (given, state.phase) == ([GiveUp(command.round)], Finished())


def test_refusals_before_a_round_that_closed_do_not_make_a_run_give_up() -> None:
    state, (command,) = play(all_online(replace(SAMPLED, rounds=100, give_up=True)), Tick(0))
    for _ in range(40):
        state, given = all_refuse(state, command, 1.0)
        assert given == [AbandonRound(command.round)]
        state, (command,) = play(state, Tick(1))
        updates = [counted(device, command.round) for device in drawn(command.round)]
        state, _ = play(state, *updates, Tick(1), RoundApplied(command.round))
        state, (command,) = play(state, Tick(1))


def test_in_a_sampled_buffered_run_late_updates_keep_a_round_from_being_given_up() -> None:
    buffered = replace(SAMPLED, buffer_goal=2)
    state, _ = play(all_online(buffered), Tick(0), *(counted(device) for device in drawn(1)), Tick(1), RoundApplied(1))
    state, commands = play(state, Tick(1))
    (opened,) = commands
    gone = [DeviceOffline(device) for device in drawn(opened.round)]
    assert play(state, *gone, counted("device-0", 1), Tick(20))[1] == [CloseRound(opened.round)]
    assert play(state, *gone, Tick(20))[1] == [AbandonRound(opened.round)]

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.round_events import (
    Answered,
    Begin,
    Event,
    ExpectSlice,
    Fetch,
    FetchFailed,
    GiveUp,
    ModelFetched,
    PlanArrived,
    Selection,
    Settled,
    SliceArrived,
    SliceRefused,
    Store,
    Stored,
    StoreFailed,
    Tick,
    Train,
    UpdateAccepted,
)
from edge_client.round_phases import (
    MAX_RUNS_REMEMBERED,
    AwaitingSlice,
    Delivering,
    FetchDelayed,
    Fetching,
    Idle,
    Memory,
    Phase,
    StoreDelayed,
    Storing,
    Task,
    Training,
    due,
)
from edge_client.round_state import TABLE, advance
from wire_protocol.messages import RoundPlan, Slice
from wire_protocol.sub_model import SubModel

PAYLOAD = b"sealed"
NOW = 1000.0


def plan(number: int, resync_round: int = 4, run: str = "r", bundle: str = "b" * 64, most_stale: int = 0) -> RoundPlan:
    return RoundPlan(
        run=run, round=number, resync_round=resync_round, model_version=number - 1, bundle=bundle, model="a" * 64,
        deadline=0.0, local_steps=1, batch_size=1, learning_rate=0.1, keep=0.5, most_stale=most_stale,
    )  # fmt: skip


def chosen(resync_round: int = 4, run: str = "r", bundle: str = "b" * 64, number: int = 4) -> Selection:
    return Selection(run, bundle, resync_round, number, SubModel({"g": np.array([resync_round])}))


def a_slice(number: int = 5, run: str = "r", model_version: int | None = None) -> Slice:
    version = number - 1 if model_version is None else model_version
    return Slice(run=run, round=number, model_version=version, precision="float32", values=b"")


UP = Memory({"r": chosen()}, newest={"r": 5})
BARE = replace(UP, selections={})
P5 = plan(5)
TASK = Task(P5, expires=NOW + 100)
R5 = {"run": "r", "round": 5, "now": NOW}
R4 = {"run": "r", "round": 4, "now": NOW}

IDLE = Idle(UP)
AWAITING = AwaitingSlice(UP, TASK, chosen(), due=NOW)
FETCHING = Fetching(UP, TASK, chosen(), failures=1)
DELAYED = FetchDelayed(UP, TASK, chosen(), failures=2, due=NOW)
TRAINING = Training(UP, TASK, chosen())
STORING = Storing(UP, TASK, PAYLOAD, chosen(), failures=1)
FULL = StoreDelayed(UP, TASK, PAYLOAD, chosen(), failures=2, due=NOW)
DELIVERING = Delivering(UP, TASK)
BUSY = (AWAITING, FETCHING, DELAYED, TRAINING, STORING, FULL, DELIVERING)
DECLINING = Storing(UP, TASK, b"no", None)

OLD = PlanArrived(now=NOW, plan=plan(4), remaining=50)
AGAIN = PlanArrived(now=NOW, plan=P5, remaining=50)
LATE = PlanArrived(now=NOW, plan=plan(6), remaining=0)
NEWER = PlanArrived(now=NOW, plan=plan(6), remaining=50)
RESYNC = PlanArrived(now=NOW, plan=plan(6, resync_round=6), remaining=50)
NOT_DRAWN = PlanArrived(now=NOW, plan=plan(6), remaining=50, drawn=False)
OTHER_RUN = PlanArrived(now=NOW, plan=plan(1, 1, run="s"), remaining=50)
ACCEPTED = UpdateAccepted(now=NOW, selection=chosen(number=5))

BEGUN = replace(UP, newest={"r": 6})
NEXT_TASK = Task(plan(6), NOW + 50)
NEXT = AwaitingSlice(BEGUN, NEXT_TASK, chosen(), due=NOW + 5)
NEXT_COMMANDS = (Begin(plan(6)), ExpectSlice(plan(6)))
OVERTAKEN = GiveUp(P5, "a newer plan came")
OTHER_BEGUN = Fetching(replace(UP, newest={"r": 4, "s": 1}), Task(OTHER_RUN.plan, NOW + 50), None)
STORE = Store(P5, PAYLOAD, chosen())
GIVEN_UP = GiveUp(P5, "the model could not be fetched before the deadline")
FORGOTTEN = Idle(replace(UP, newest={"r": 4}))


def changes(phase: Phase, event: Event, following: Phase, *commands):
    return pytest.param(phase, event, following, commands, id=f"{type(phase).__name__}-{type(event).__name__}")


CHANGES = [
    # a plan
    changes(IDLE, NEWER, NEXT, *NEXT_COMMANDS),
    changes(
        IDLE, RESYNC, Fetching(BEGUN, Task(RESYNC.plan, NOW + 50), None), Begin(RESYNC.plan), Fetch(RESYNC.plan, None)
    ),
    changes(
        Idle(BARE),
        NEWER,
        Fetching(replace(BARE, newest={"r": 6}), NEXT_TASK, None),
        Begin(plan(6)),
        Fetch(plan(6), None),
    ),
    changes(
        IDLE,
        OTHER_RUN,
        Fetching(replace(UP, newest={"r": 5, "s": 1}), Task(OTHER_RUN.plan, NOW + 50), None),
        Begin(OTHER_RUN.plan),
        Fetch(OTHER_RUN.plan, None),
    ),
    *(
        changes(phase, OTHER_RUN, OTHER_BEGUN, OVERTAKEN, Begin(OTHER_RUN.plan), Fetch(OTHER_RUN.plan, None))
        for phase in (AWAITING, FETCHING, DELAYED, TRAINING)
    ),
    *(changes(phase, NEWER, NEXT, OVERTAKEN, *NEXT_COMMANDS) for phase in BUSY if phase not in (STORING, DELIVERING)),
    changes(STORING, NEWER, NEXT, *NEXT_COMMANDS),
    changes(IDLE, NOT_DRAWN, Idle(BEGUN)),
    *(changes(phase, NOT_DRAWN, Idle(BEGUN), OVERTAKEN) for phase in BUSY if phase not in (STORING, DELIVERING)),
    changes(STORING, NOT_DRAWN, Idle(BEGUN)),
    changes(DELIVERING, NOT_DRAWN, Idle(BEGUN)),
    changes(DELIVERING, NEWER, NEXT, *NEXT_COMMANDS),
    *(changes(phase, AGAIN, replace(phase, task=Task(P5, NOW + 50))) for phase in BUSY),
    # a receipt
    *(
        changes(phase, ACCEPTED, replace(phase, memory=replace(UP, selections={"r": chosen(number=5)})))
        for phase in (IDLE, *BUSY)
    ),
    # the slice
    changes(AWAITING, SliceArrived(now=NOW, content=a_slice()), TRAINING, Train(P5, chosen(), a_slice())),
    changes(AWAITING, Tick(now=NOW), replace(FETCHING, failures=0), Fetch(P5, chosen())),
    changes(TRAINING, SliceRefused(**R5), replace(FETCHING, failures=0), Fetch(P5, chosen())),
    # the model
    changes(FETCHING, ModelFetched(**R5), TRAINING, Train(P5, chosen())),
    changes(FETCHING, FetchFailed(**R5, reason="", jitter=0.5), replace(DELAYED, failures=2, due=NOW + 2.0)),
    changes(TRAINING, FetchFailed(**R5, reason="", jitter=0.5), replace(DELAYED, failures=1, due=NOW + 1.0)),
    changes(FETCHING, Answered(**R5, payload=b"no", selection=None), DECLINING, Store(P5, b"no", None)),
    changes(DELAYED, Tick(now=NOW), replace(FETCHING, failures=2), Fetch(P5, chosen())),
    changes(replace(DELAYED, task=Task(P5, NOW)), Tick(now=NOW), FORGOTTEN, GIVEN_UP),
    # training
    changes(TRAINING, Answered(**R5, payload=PAYLOAD, selection=chosen()), replace(STORING, failures=0), STORE),
    changes(TRAINING, Answered(**R5, payload=b"no", selection=None), DECLINING, Store(P5, b"no", None)),
    # storing
    changes(STORING, Stored(**R5), IDLE),
    changes(STORING, StoreFailed(**R5, jitter=0.5), replace(FULL, due=NOW + 2.0)),
    changes(FULL, Tick(now=NOW), replace(STORING, failures=2), STORE),
    # delivering
    changes(DELIVERING, Settled(**R5), IDLE),
]


@pytest.mark.parametrize(("phase", "event", "following", "commands"), CHANGES)
def test_what_changes(phase, event, following, commands):
    assert advance(phase, event) == (following, commands)


PHASES = (IDLE, *BUSY)
STALE = (
    OLD,
    LATE,
    ModelFetched(**R4),
    FetchFailed(**R4, reason=""),
    Answered(**R4, payload=PAYLOAD, selection=chosen()),
    SliceRefused(**R4),
    Stored(**R4),
    Settled(**R4),
    StoreFailed(**R4),
    SliceArrived(now=NOW, content=a_slice(4)),
    SliceArrived(now=NOW, content=a_slice(run="s")),
    SliceArrived(now=NOW, content=a_slice(model_version=9)),
    UpdateAccepted(now=NOW, selection=chosen(number=3)),
    Tick(now=NOW - 1),
)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: type(phase).__name__)
@pytest.mark.parametrize("event", STALE, ids=lambda event: type(event).__name__)
def test_stale_early_and_empty_events_change_nothing(phase, event):
    assert advance(phase, event) == (phase, ())


FRESH = {
    Tick: Tick(now=NOW),
    PlanArrived: NEWER,
    SliceArrived: SliceArrived(now=NOW, content=a_slice()),
    SliceRefused: SliceRefused(**R5),
    ModelFetched: ModelFetched(**R5),
    FetchFailed: FetchFailed(**R5, reason=""),
    Answered: Answered(**R5, payload=PAYLOAD, selection=chosen()),
    Stored: Stored(**R5),
    Settled: Settled(**R5),
    StoreFailed: StoreFailed(**R5),
    UpdateAccepted: ACCEPTED,
}
PAIRS = [(phase, event) for phase in PHASES for event in FRESH.values()]


@pytest.mark.parametrize(
    ("phase", "event"), PAIRS, ids=[f"{type(phase).__name__}-{type(event).__name__}" for phase, event in PAIRS]
)
def test_an_event_without_a_cell_in_the_table_is_ignored_and_every_cell_is_tried_above(phase, event):
    if type(event) not in TABLE[type(phase)]:
        assert advance(phase, event) == (phase, ())
    else:
        tried = {(type(case.values[0]), type(case.values[1])) for case in CHANGES}
        assert (type(phase), type(event)) in tried


def test_a_round_whose_model_never_came_begins_anew_when_its_plan_is_prolonged():
    following, commands = advance(FORGOTTEN, AGAIN)
    assert isinstance(following, AwaitingSlice)
    assert commands[0] == Begin(P5)


STALE_TASK = Task(plan(5, most_stale=2), expires=NOW + 100)
LATER, LATEST, TOO_LATE = (PlanArrived(now=NOW, plan=plan(number, most_stale=2), remaining=50) for number in (6, 7, 8))
AFTER = {number: Task(plan(number, most_stale=2), NOW + 50) for number in (6, 7, 8)}
FINISHED_FIRST = [replace(phase, task=STALE_TASK) for phase in BUSY if not isinstance(phase, FetchDelayed)]


@pytest.mark.parametrize("events", [(Stored(**R5), NEWER), (NEWER,)], ids=["stored", "being stored"])
def test_an_updates_neurons_serve_the_next_round_also_before_its_receipt(events):
    phase: Phase = replace(STORING, memory=BARE)
    for event in events:
        phase, _ = advance(phase, event)
    assert phase == NEXT


@pytest.mark.parametrize("phase", FINISHED_FIRST, ids=lambda phase: type(phase).__name__)
def test_in_a_buffered_run_the_round_at_hand_is_finished_while_its_update_counts(phase: Phase) -> None:
    """And the newest plan is remembered, whatever is replayed; one too new for the update is taken at once."""
    for events, following in (((LATER,), 6), ((LATER, LATEST), 7), ((LATEST, LATER), 7)):
        now = phase
        for event in events:
            now, commands = advance(now, event)
            assert commands == ()
        assert now == replace(phase, task=replace(STALE_TASK, following=AFTER[following]))
    started, commands = advance(now, TOO_LATE)
    assert started == AwaitingSlice(replace(UP, newest={"r": 8}), AFTER[8], chosen(), due=NOW + 5)
    lost = not isinstance(phase, Storing | Delivering)
    assert [type(command) for command in commands] == [GiveUp] * lost + [Begin, ExpectSlice]


@pytest.mark.parametrize("phase", FINISHED_FIRST, ids=lambda phase: type(phase).__name__)
def test_in_a_buffered_run_a_plan_that_does_not_draw_the_device_ends_only_what_counts_no_more(phase: Phase) -> None:
    assert advance(phase, replace(LATER, drawn=False)) == (phase, ())
    following, commands = advance(phase, replace(TOO_LATE, drawn=False))
    assert following == Idle(replace(UP, newest={"r": 8}))
    assert [type(command) for command in commands] == [GiveUp] * (not isinstance(phase, Storing | Delivering))


def test_in_a_buffered_run_the_next_round_begins_with_the_receipt() -> None:
    task = replace(STALE_TASK, following=AFTER[6])
    delivering, commands = advance(replace(STORING, task=task), Stored(**R5))
    assert (delivering, commands) == (Delivering(UP, task), ())
    begun = AwaitingSlice(BEGUN, AFTER[6], chosen(), due=NOW + 5)
    plan_6 = AFTER[6].plan
    assert advance(delivering, Settled(**R5)) == (begun, (Begin(plan_6), ExpectSlice(plan_6)))
    assert advance(delivering, Settled(run="r", round=5, now=NOW + 50)) == (IDLE, ())
    assert advance(replace(delivering, task=STALE_TASK), Settled(**R5)) == (IDLE, ())


def test_a_model_that_cannot_be_had_is_given_up_for_that_of_a_newer_plan() -> None:
    begun = AwaitingSlice(BEGUN, AFTER[6], chosen(), due=NOW + 5)
    for phase in (FETCHING, TRAINING):
        following, commands = advance(
            replace(phase, task=replace(STALE_TASK, following=AFTER[6])), FetchFailed(**R5, reason="")
        )
        assert following == begun
        assert [type(command) for command in commands] == [GiveUp, Begin, ExpectSlice]
    following, commands = advance(replace(DELAYED, task=STALE_TASK), LATER)
    assert following == begun
    assert isinstance(commands[0], GiveUp)


@pytest.mark.parametrize("selection", [chosen(3), chosen(run="s"), chosen(bundle="c" * 64), None])
def test_neurons_of_another_resync_run_or_bundle_are_not_used_again(selection):
    known = {} if selection is None else {selection.run: selection}
    following, commands = advance(Idle(replace(UP, selections=known)), NEWER)
    assert isinstance(following, Fetching)
    assert commands[1] == Fetch(NEWER.plan, None)


def test_memory_of_runs_is_bounded_and_forgets_the_oldest():
    phase: Phase = Idle()
    for number in range(MAX_RUNS_REMEMBERED + 5):
        arrived = PlanArrived(now=NOW, plan=plan(1, 1, run=f"run{number}"), remaining=50)
        phase, _ = advance(phase, arrived)
    assert len(phase.memory.newest) == MAX_RUNS_REMEMBERED
    assert "run0" not in phase.memory.newest
    assert f"run{MAX_RUNS_REMEMBERED + 4}" in phase.memory.newest


def test_a_receipt_that_comes_late_brings_no_older_neurons_back_but_another_run_takes_their_place():
    newest = Memory({"r": chosen(resync_round=6, number=7)})
    for late in (chosen(resync_round=4, number=5), chosen(resync_round=6, number=6)):
        assert newest.with_selection(late) is newest
    assert list(newest.with_selection(chosen(1, run="s")).selections.values()) == [
        *newest.selections.values(),
        chosen(1, run="s"),
    ]


def test_the_neurons_of_the_runs_used_last_are_remembered():
    memory = Memory()
    for run in ("one", "two", "three", "four", "one", "five"):
        memory = memory.with_selection(chosen(run=run))
    assert list(memory.selections) == ["three", "four", "one", "five"]


def test_a_round_left_for_another_runs_goes_on_in_its_runs_next_turn_and_one_that_is_made_does_not():
    phase, _ = advance(TRAINING, OTHER_RUN)
    prolonged = PlanArrived(now=NOW + 60, plan=P5, remaining=50)
    phase, commands = advance(phase, prolonged)
    assert (Begin(P5), ExpectSlice(P5)) == commands[-2:]
    for made in (STORING, FULL, DELIVERING):
        phase, _ = advance(advance(made, OTHER_RUN)[0], prolonged)
        assert phase.task.plan == OTHER_RUN.plan


def test_a_buffered_runs_round_is_finished_before_another_runs_is_begun():
    buffered = Task(plan(5, most_stale=2), expires=NOW + 100)
    for phase in (replace(one, task=buffered) for one in (AWAITING, FETCHING, TRAINING, STORING)):
        busy, commands = advance(phase, OTHER_RUN)
        assert (type(busy), commands) == (type(phase), ())
        assert busy.task.following == Task(OTHER_RUN.plan, NOW + 50)
    following, commands = advance(busy, Stored(**R5))
    assert following.task.plan == OTHER_RUN.plan
    assert commands[0] == Begin(OTHER_RUN.plan)
    for phase in (DELAYED, DELIVERING):
        assert advance(replace(phase, task=buffered), OTHER_RUN)[0].task.plan == OTHER_RUN.plan


def test_runs_that_alternate_wait_for_their_slices_and_fetch_nothing():
    memory = Memory({"r": chosen(), "s": chosen(run="s")}, newest={"r": 4, "s": 4})
    phase = Idle(memory)
    for number in (5, 6):
        for run in ("r", "s"):
            arrived = PlanArrived(now=NOW, plan=plan(number, run=run), remaining=50)
            phase, commands = advance(phase, arrived)
            assert commands[-1] == ExpectSlice(arrived.plan)
            phase = Idle(phase.memory)


def test_the_newest_round_of_a_run_never_goes_back():
    assert Memory(newest={"r": 5}).with_round("r", 3).newest == {"r": 5}


runs = st.sampled_from(["r", "s"])
numbers = st.integers(1, 4)
plans = st.builds(
    lambda number, back, run, stale: plan(number, max(1, number - back), run, most_stale=stale),
    *(numbers, st.integers(0, 2), runs, st.integers(0, 2)),
)
times = st.fixed_dictionaries({"now": st.floats(0, 1000), "jitter": st.floats(0, 0.999)})
rounds = st.fixed_dictionaries({"run": runs, "round": numbers})
selections = st.builds(lambda resync, run, number: chosen(resync, run, number=number), numbers, runs, numbers)
payloads = st.sampled_from([PAYLOAD, b"x"])
contents = st.one_of(
    st.tuples(st.just(Tick), st.just({})),
    st.tuples(st.sampled_from([ModelFetched, SliceRefused, Stored, StoreFailed, Settled]), rounds),
    st.tuples(
        st.just(PlanArrived),
        st.fixed_dictionaries({"plan": plans, "remaining": st.floats(-10, 100), "drawn": st.booleans()}),
    ),
    st.tuples(st.just(SliceArrived), st.builds(a_slice, numbers, runs).map(lambda content: {"content": content})),
    st.tuples(st.just(UpdateAccepted), selections.map(lambda own: {"selection": own})),
    st.tuples(st.just(FetchFailed), rounds.map(lambda mine: {**mine, "reason": "x"})),
    st.tuples(
        st.just(Answered),
        st.builds(
            lambda mine, payload, own: {**mine, "payload": payload, "selection": own},
            *(rounds, payloads, st.none() | selections),
        ),
    ),
)
events = st.builds(lambda content, moment: content[0](**content[1], **moment), contents, times)
"""Any event; runs, rounds and payloads are few, so that many of them match."""


@settings(max_examples=400, deadline=None)
@given(st.lists(events, max_size=60))
def test_no_sequence_of_events_raises_or_stores_two_payloads_for_a_round(sequence):
    phase: Phase = Idle()
    newest: dict[str, int] = {}
    current = None
    stored: dict[tuple[str, int], bytes] = {}
    for event in sequence:
        phase, commands = advance(phase, event)
        for command in commands:
            if isinstance(command, Begin):
                assert command.plan.round >= newest.get(command.plan.run, 0)
                newest[command.plan.run] = command.plan.round
                current = command.plan
            assert isinstance(command, GiveUp) or command.plan == current
            if isinstance(command, Store):
                assert stored.setdefault((command.plan.run, command.plan.round), command.payload) == command.payload
        if isinstance(phase, Idle):
            assert due(phase) is None
        else:
            assert phase.task.plan == current


@settings(deadline=None)
@given(st.lists(events, max_size=30))
def test_from_anywhere_a_new_round_can_still_be_finished(sequence):
    phase: Phase = Idle()
    for event in sequence:
        phase, _ = advance(phase, event)
    order, later = plan(9, 9), NOW + 5000
    phase, _ = advance(phase, PlanArrived(now=NOW, plan=order, remaining=10_000))
    if phase.task.plan != order:  # a buffered run's round is finished first
        for event in (Tick(now=later), *done(phase.task.plan, later)):
            phase, _ = advance(phase, event)
    stored = []
    for event in (*done(order, later), UpdateAccepted(now=later, selection=chosen(9, number=9))):
        phase, commands = advance(phase, event)
        stored += [command for command in commands if isinstance(command, Store)]
    assert stored == [Store(order, PAYLOAD, chosen(9))]
    assert isinstance(phase, Idle)
    assert phase.memory.selections["r"] == chosen(9, number=9)


def done(order, now):
    """What happens to a round that nothing hinders."""
    mine = {"now": now, "run": order.run, "round": order.round}
    return (ModelFetched(**mine), Answered(**mine, payload=PAYLOAD, selection=chosen(9)), Stored(**mine))

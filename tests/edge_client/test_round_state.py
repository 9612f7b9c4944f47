from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.round_events import (
    Begin,
    Connected,
    Disconnected,
    End,
    Event,
    ExpectSlice,
    Fetch,
    FetchFailed,
    ModelFetched,
    NeedArrived,
    PlanArrived,
    ReceiptArrived,
    Selection,
    Send,
    SliceArrived,
    SliceRefused,
    Tick,
    Train,
    Trained,
    TrainingFailed,
    Transmitted,
)
from edge_client.round_phases import (
    AwaitingSlice,
    FetchDelayed,
    Fetching,
    Idle,
    Memory,
    Phase,
    Sending,
    Task,
    Training,
    due,
)
from edge_client.round_state import TABLE, advance
from edge_client.round_transitions import MAX_RUNS_REMEMBERED
from wire_protocol.chunking import DEFAULT_CHUNK_BYTES, manifest_of
from wire_protocol.messages import Decline, Need, Receipt, RoundPlan, Slice, encode
from wire_protocol.sub_model import SubModel

PAYLOAD = bytes(2 * DEFAULT_CHUNK_BYTES + 1)
DIGEST = manifest_of(PAYLOAD).sha256
NOW = 1000.0
ALL = (0, 1, 2)


def plan(number: int, resync_round: int = 4, run: str = "r", bundle: str = "b" * 64) -> RoundPlan:
    return RoundPlan(
        run=run, round=number, resync_round=resync_round, model_version=number - 1, bundle=bundle, model="a" * 64,
        deadline=0.0, local_steps=1, batch_size=1, learning_rate=0.1, keep=0.5,
    )  # fmt: skip


def chosen(resync_round: int = 4, run: str = "r", bundle: str = "b" * 64) -> Selection:
    return Selection(run, bundle, resync_round, SubModel({"g": np.array([resync_round])}))


def a_slice(number: int = 5, run: str = "r", model_version: int | None = None) -> Slice:
    version = number - 1 if model_version is None else model_version
    return Slice(run=run, round=number, model_version=version, precision="float32", values=b"")


def receipt(number: int = 5, digest: bytes = DIGEST, accepted: bool = True, run: str = "r") -> Receipt:
    return Receipt(run=run, round=number, sha256=digest, accepted=accepted, reason="" if accepted else "late")


def need(missing: tuple[int, ...], number: int = 5, run: str = "r") -> Need:
    return Need(run=run, round=number, missing=missing)


UP = Memory(connected=True, selection=chosen(), newest={"r": 5})
DOWN = replace(UP, connected=False)
BARE = replace(UP, selection=None)
P5 = plan(5)
TASK = Task(P5, expires=NOW + 100)
R5 = {"run": "r", "round": 5, "now": NOW}
R4 = {"run": "r", "round": 4, "now": NOW}

IDLE = Idle(UP)
AWAITING = AwaitingSlice(UP, TASK, chosen(), due=NOW)
FETCHING = Fetching(UP, TASK, chosen(), failures=1)
DELAYED = FetchDelayed(UP, TASK, chosen(), failures=2, due=NOW)
TRAINING = Training(UP, TASK, chosen())
SENDING = Sending(UP, TASK, chosen(), PAYLOAD, manifest_of(PAYLOAD), begun=True, repeats=2, due=NOW)
BUSY = (AWAITING, FETCHING, DELAYED, TRAINING, SENDING)
DECLINED = encode(Decline(run="r", round=5, cause="training"))
DECLINING = Sending(UP, TASK, None, DECLINED, manifest_of(DECLINED), begun=True)
UNSENT_DECLINE = replace(DECLINING, memory=DOWN, begun=False)
UNSENT = replace(SENDING, memory=DOWN, begun=False, repeats=0, due=None)

OLD = PlanArrived(now=NOW, plan=plan(4), remaining=50)
AGAIN = PlanArrived(now=NOW, plan=P5, remaining=50)
LATE = PlanArrived(now=NOW, plan=plan(6), remaining=0)
NEWER = PlanArrived(now=NOW, plan=plan(6), remaining=50)
RESYNC = PlanArrived(now=NOW, plan=plan(6, resync_round=6), remaining=50)
OTHER_RUN = PlanArrived(now=NOW, plan=plan(1, 1, run="s"), remaining=50)

BEGUN = replace(UP, newest={"r": 6})
NEXT_TASK = Task(plan(6), NOW + 50)
NEXT = AwaitingSlice(BEGUN, NEXT_TASK, chosen(), due=NOW + 5)
NEXT_COMMANDS = (Begin(plan(6)), ExpectSlice(plan(6)))
OVERTAKEN = End(P5, accepted=False, reason="a newer plan came")
SEND_DECLINE = Send(P5, DECLINED, announce=True, chunks=(0,))
SEND_ALL = Send(P5, PAYLOAD, announce=True, chunks=ALL)
ANNOUNCE = Send(P5, PAYLOAD, announce=True, chunks=())
GIVEN_UP = End(P5, accepted=False, reason="the model could not be fetched before the deadline")
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
    *(changes(phase, NEWER, NEXT, OVERTAKEN, *NEXT_COMMANDS) for phase in BUSY),
    *(changes(phase, AGAIN, replace(phase, task=Task(P5, NOW + 50))) for phase in BUSY),
    # the link
    *(
        changes(phase, Disconnected(now=NOW), replace(phase, memory=DOWN))
        for phase in (IDLE, AWAITING, FETCHING, DELAYED, TRAINING)
    ),
    *(
        changes(replace(phase, memory=DOWN), Connected(now=NOW), phase)
        for phase in (IDLE, AWAITING, FETCHING, DELAYED, TRAINING)
    ),
    changes(SENDING, Disconnected(now=NOW), replace(SENDING, memory=DOWN, due=None)),
    changes(UNSENT, Connected(now=NOW), replace(UNSENT, memory=UP, begun=True), SEND_ALL),
    changes(
        replace(SENDING, memory=DOWN, due=None), Connected(now=NOW), replace(SENDING, due=None, repeats=0), ANNOUNCE
    ),
    # the slice
    changes(AWAITING, SliceArrived(now=NOW, content=a_slice()), TRAINING, Train(P5, chosen(), a_slice())),
    changes(AWAITING, Tick(now=NOW), replace(FETCHING, failures=0), Fetch(P5, chosen())),
    changes(TRAINING, SliceRefused(**R5), replace(FETCHING, failures=0), Fetch(P5, chosen())),
    # the model
    changes(FETCHING, ModelFetched(**R5), TRAINING, Train(P5, chosen())),
    changes(FETCHING, FetchFailed(**R5, reason="", jitter=0.5), replace(DELAYED, failures=2, due=NOW + 2.0)),
    changes(FETCHING, TrainingFailed(**R5, cause="training"), DECLINING, SEND_DECLINE),
    changes(replace(FETCHING, memory=DOWN), TrainingFailed(**R5, cause="training"), UNSENT_DECLINE),
    changes(DELAYED, Tick(now=NOW), replace(FETCHING, failures=2), Fetch(P5, chosen())),
    changes(replace(DELAYED, task=Task(P5, NOW)), Tick(now=NOW), FORGOTTEN, GIVEN_UP),
    # training
    changes(
        TRAINING, Trained(**R5, payload=PAYLOAD, selection=chosen()), replace(SENDING, repeats=0, due=None), SEND_ALL
    ),
    changes(replace(TRAINING, memory=DOWN), Trained(**R5, payload=PAYLOAD, selection=chosen()), UNSENT),
    changes(TRAINING, TrainingFailed(**R5, cause="training"), DECLINING, SEND_DECLINE),
    changes(UNSENT_DECLINE, Connected(now=NOW), DECLINING, SEND_DECLINE),
    # sending
    changes(SENDING, Transmitted(**R5, jitter=0.5), replace(SENDING, due=NOW + 1 + 6.0)),
    changes(SENDING, Tick(now=NOW), replace(SENDING, due=None, repeats=3), ANNOUNCE),
    changes(
        SENDING,
        NeedArrived(now=NOW, need=need((2, 0, 2, 99))),
        replace(SENDING, due=None, repeats=0),
        Send(P5, PAYLOAD, announce=False, chunks=(0, 2)),
    ),
    changes(
        replace(SENDING, memory=BARE),
        ReceiptArrived(now=NOW, receipt=receipt()),
        IDLE,
        End(P5, accepted=True, reason=""),
    ),
    changes(
        replace(SENDING, memory=BARE),
        ReceiptArrived(now=NOW, receipt=receipt(accepted=False)),
        Idle(BARE),
        End(P5, accepted=False, reason="late"),
    ),
    *(
        changes(
            DECLINING,
            ReceiptArrived(now=NOW, receipt=receipt(digest=manifest_of(DECLINED).sha256, accepted=accepted)),
            IDLE,
            End(P5, accepted=accepted, reason="" if accepted else "late"),
        )
        for accepted in (False, True)
    ),
]


@pytest.mark.parametrize(("phase", "event", "following", "commands"), CHANGES)
def test_what_changes(phase, event, following, commands):
    assert advance(phase, event) == (following, commands)


PHASES = (IDLE, AWAITING, FETCHING, DELAYED, TRAINING, SENDING, UNSENT)
STALE = (
    OLD,
    LATE,
    ModelFetched(**R4),
    FetchFailed(**R4, reason=""),
    Trained(**R4, payload=PAYLOAD, selection=chosen()),
    TrainingFailed(**R4, cause="data"),
    SliceRefused(**R4),
    Transmitted(**R4),
    SliceArrived(now=NOW, content=a_slice(4)),
    SliceArrived(now=NOW, content=a_slice(run="s")),
    SliceArrived(now=NOW, content=a_slice(model_version=9)),
    ReceiptArrived(now=NOW, receipt=receipt(4)),
    ReceiptArrived(now=NOW, receipt=receipt(run="s")),
    ReceiptArrived(now=NOW, receipt=receipt(digest=bytes(32))),
    NeedArrived(now=NOW, need=need((0,), number=4)),
    NeedArrived(now=NOW, need=need((0,), run="s")),
    NeedArrived(now=NOW, need=need(())),
    NeedArrived(now=NOW, need=need((3, 99))),
    Tick(now=NOW - 1),
)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: type(phase).__name__)
@pytest.mark.parametrize("event", STALE, ids=lambda event: type(event).__name__)
def test_stale_early_and_empty_events_change_nothing(phase, event):
    assert advance(phase, event) == (phase, ())


FRESH = {
    Connected: Connected(now=NOW),
    Disconnected: Disconnected(now=NOW),
    Tick: Tick(now=NOW),
    PlanArrived: NEWER,
    SliceArrived: SliceArrived(now=NOW, content=a_slice()),
    SliceRefused: SliceRefused(**R5),
    ModelFetched: ModelFetched(**R5),
    FetchFailed: FetchFailed(**R5, reason=""),
    Trained: Trained(**R5, payload=PAYLOAD, selection=chosen()),
    TrainingFailed: TrainingFailed(**R5, cause="data"),
    Transmitted: Transmitted(**R5),
    ReceiptArrived: ReceiptArrived(now=NOW, receipt=receipt()),
    NeedArrived: NeedArrived(now=NOW, need=need((0,))),
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


@pytest.mark.parametrize("selection", [chosen(3), chosen(run="s"), chosen(bundle="c" * 64), None])
def test_neurons_of_another_resync_run_or_bundle_are_not_used_again(selection):
    following, commands = advance(Idle(replace(UP, selection=selection)), NEWER)
    assert isinstance(following, Fetching)
    assert commands[1] == Fetch(NEWER.plan, None)


def test_a_device_without_a_link_takes_the_order_again_when_it_is_back():
    phase, commands = advance(UNSENT, Transmitted(**R5))
    assert (phase, commands) == (UNSENT, ())
    assert due(phase) is None


def test_memory_of_runs_is_bounded_and_forgets_the_oldest():
    phase: Phase = Idle()
    for number in range(MAX_RUNS_REMEMBERED + 5):
        arrived = PlanArrived(now=NOW, plan=plan(1, 1, run=f"run{number}"), remaining=50)
        phase, _ = advance(phase, arrived)
    assert len(phase.memory.newest) == MAX_RUNS_REMEMBERED
    assert "run0" not in phase.memory.newest
    assert f"run{MAX_RUNS_REMEMBERED + 4}" in phase.memory.newest


runs = st.sampled_from(["r", "s"])
numbers = st.integers(1, 4)
plans = st.builds(lambda number, back, run: plan(number, max(1, number - back), run), numbers, st.integers(0, 2), runs)
times = st.fixed_dictionaries({"now": st.floats(0, 1000), "jitter": st.floats(0, 0.999)})
rounds = st.fixed_dictionaries({"run": runs, "round": numbers})
selections = st.builds(chosen, numbers, runs)
payloads = st.booleans().map(lambda large: PAYLOAD if large else b"x")
contents = st.one_of(
    st.tuples(st.sampled_from([Connected, Disconnected, Tick]), st.just({})),
    st.tuples(st.sampled_from([ModelFetched, SliceRefused, Transmitted]), rounds),
    st.tuples(st.just(PlanArrived), st.fixed_dictionaries({"plan": plans, "remaining": st.floats(-10, 100)})),
    st.tuples(st.just(SliceArrived), st.builds(a_slice, numbers, runs).map(lambda content: {"content": content})),
    st.tuples(st.just(FetchFailed), rounds.map(lambda mine: {**mine, "reason": "x"})),
    st.tuples(st.just(TrainingFailed), rounds.map(lambda mine: {**mine, "cause": "internal"})),
    st.tuples(
        st.just(Trained),
        st.builds(
            lambda mine, payload, own: {**mine, "payload": payload, "selection": own}, rounds, payloads, selections
        ),
    ),
    st.tuples(
        st.just(ReceiptArrived),
        st.builds(receipt, numbers, payloads.map(lambda it: manifest_of(it).sha256), st.booleans(), runs).map(
            lambda it: {"receipt": it}
        ),
    ),
    st.tuples(
        st.just(NeedArrived),
        st.builds(need, st.tuples(st.integers(0, 4)), numbers, runs).map(lambda it: {"need": it}),
    ),
)
events = st.builds(lambda content, moment: content[0](**content[1], **moment), contents, times)
"""Any event; runs, rounds and payloads are few, so that many of them match."""


@settings(max_examples=400, deadline=None)
@given(st.lists(events, max_size=60))
def test_no_sequence_of_events_raises_or_sends_an_update_outside_its_round(sequence):
    phase: Phase = Idle()
    newest: dict[str, int] = {}
    current = None
    trained: dict[tuple[str, int], set[bytes]] = {}
    for event in sequence:
        if isinstance(event, Trained):
            trained.setdefault((event.run, event.round), set()).add(event.payload)
        if isinstance(event, TrainingFailed):
            payload = encode(Decline(run=event.run, round=event.round, cause=event.cause))
            trained.setdefault((event.run, event.round), set()).add(payload)
        phase, commands = advance(phase, event)
        for command in commands:
            if isinstance(command, Begin):
                assert command.plan.round >= newest.get(command.plan.run, 0)
                newest[command.plan.run] = command.plan.round
                current = command.plan
            assert isinstance(command, End) or command.plan == current
            if isinstance(command, Send):
                assert phase.memory.connected
                assert command.payload in trained[command.plan.run, command.plan.round]
                assert set(command.chunks) <= set(range(manifest_of(command.payload).chunk_count))
        if isinstance(phase, Idle):
            assert due(phase) is None
        else:
            assert phase.task.plan == current


@settings(deadline=None)
@given(st.lists(events, max_size=30), st.booleans())
def test_from_anywhere_a_new_round_can_still_be_finished(sequence, connected):
    phase: Phase = Idle()
    for event in [*sequence, Connected(now=NOW)]:
        phase, _ = advance(phase, event)
    order = plan(9, 9)
    script = [
        PlanArrived(now=NOW, plan=order, remaining=50),
        ModelFetched(now=NOW, run="r", round=9),
        *([] if connected else [Disconnected(now=NOW)]),
        Trained(now=NOW, run="r", round=9, payload=PAYLOAD, selection=chosen(9)),
        *([] if connected else [Connected(now=NOW)]),
        ReceiptArrived(now=NOW, receipt=receipt(9)),
    ]
    sent = []
    for event in script:
        phase, commands = advance(phase, event)
        sent += [command for command in commands if isinstance(command, Send)]
    assert sent == [Send(order, PAYLOAD, announce=True, chunks=ALL)]
    assert isinstance(phase, Idle)
    assert phase.memory.selection == chosen(9)

"""What each event does in each phase of a device's round: pure functions (phase, event) -> (phase, commands).

`round_state.TABLE` says which function answers what.
"""

from __future__ import annotations

from dataclasses import replace

from edge_client.round_events import (
    Answered,
    Begin,
    Command,
    ExpectSlice,
    Fetch,
    FetchFailed,
    GiveUp,
    ModelFetched,
    PlanArrived,
    RoundEvent,
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
    AwaitingSlice,
    Busy,
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
)
from wire_protocol.backoff import full_jitter
from wire_protocol.messages import RoundPlan

SLICE_WAIT_SECONDS = 5.0
"""After this the whole model is fetched by HTTP, where nothing is lost to a full broker queue."""
FETCH_AGAIN_SECONDS = 2.0
FETCH_AGAIN_CEILING_SECONDS = 60.0
STORE_AGAIN_SECONDS = 2.0
STORE_AGAIN_CEILING_SECONDS = 60.0

Step = tuple[Phase, tuple[Command, ...]]


def remember_selection(phase: Phase, event: UpdateAccepted) -> Step:
    """The neurons of an accepted update are known to the server until the next resync."""
    return replace(phase, memory=phase.memory.with_selection(event.selection)), ()


def begin_if_new(phase: Idle, event: PlanArrived) -> Step:
    """Begin the round unless it was begun before, its deadline is past, or the device was not drawn for it."""
    if not _is_new(phase, event):
        return phase, ()
    if not event.drawn:
        return Idle(phase.memory.with_round(event.plan.run, event.plan.round)), ()
    return _begin(phase.memory, Task(event.plan, event.now + event.remaining), event.now)


def prolong_or_replace(phase: Phase, event: PlanArrived) -> Step:
    """Take a new deadline for the round at hand; leave it for a newer one, but let an update reach the outbox.

    A round whose update still counts is finished first, unless its model is yet to be had. A round that is left for
    another run's begins anew should its plan come again, in its run's next turn.
    """
    assert isinstance(phase, Busy)
    if event.remaining > 0 and _same_round(phase.task.plan, event.plan.run, event.plan.round):
        return replace(phase, task=replace(phase.task, expires=event.now + event.remaining)), ()
    if not _is_new(phase, event):
        return phase, ()
    if _is_finished_first(phase, event.plan):
        if not event.drawn:
            return phase, ()
        newest = _newest(phase.task.following, Task(event.plan, event.now + event.remaining))
        return replace(phase, task=replace(phase.task, following=newest)), ()
    following, commands = begin_if_new(Idle(_left_for(phase, event.plan)), event)
    if isinstance(phase, Storing | Delivering):
        return following, commands
    return following, (GiveUp(phase.task.plan, "a newer plan came"), *commands)


def train_on_slice(phase: AwaitingSlice, event: SliceArrived) -> Step:
    """Train from the slice of this round; any other is stale."""
    plan, content = phase.task.plan, event.content
    if not _same_round(plan, content.run, content.round) or content.model_version != plan.model_version:
        return phase, ()
    return Training(phase.memory, phase.task, phase.selection), (Train(plan, phase.selection, content),)


def fetch_when_due(phase: AwaitingSlice, event: Tick) -> Step:
    """Wait for the slice no longer: fetch the model, keep the neurons."""
    return _fetch(phase, phase.selection) if event.now >= phase.due else (phase, ())


def fetch_instead(phase: Training, event: SliceRefused) -> Step:
    """Fetch the model in place of a slice that does not fit; keep the neurons."""
    return _fetch(phase, phase.selection) if _is_ours(phase, event) else (phase, ())


def train_on_model(phase: Fetching, event: ModelFetched) -> Step:
    """Train from the model just fetched."""
    if not _is_ours(phase, event):
        return phase, ()
    return Training(phase.memory, phase.task, phase.selection), (Train(phase.task.plan, phase.selection),)


def delay_fetch(phase: Fetching | Training, event: FetchFailed) -> Step:
    """Wait before fetching again; a training that lacked files or room begins with a fetch again."""
    if not _is_ours(phase, event):
        return phase, ()
    if phase.task.following is not None:
        following, commands = _move_on(phase, event.now)
        return following, (GiveUp(phase.task.plan, "a newer plan came while its model could not be had"), *commands)
    failures = phase.failures if isinstance(phase, Fetching) else 0
    delay = full_jitter(failures, event.jitter, base=FETCH_AGAIN_SECONDS, ceiling=FETCH_AGAIN_CEILING_SECONDS)
    return FetchDelayed(phase.memory, phase.task, phase.selection, failures + 1, event.now + delay), ()


def fetch_again_when_due(phase: FetchDelayed, event: Tick) -> Step:
    """Fetch again, or give the round up past its deadline; should its plan be prolonged later, it begins anew."""
    plan = phase.task.plan
    if event.now < phase.due:
        return phase, ()
    if event.now < phase.task.expires:
        return _fetch(phase, phase.selection, phase.failures)
    memory = phase.memory.before_round(plan.run, plan.round)
    return Idle(memory), (GiveUp(plan, "the model could not be fetched before the deadline"),)


def store(phase: Training | Fetching, event: Answered) -> Step:
    """Bring the round's one payload to disk before anything of it is sent."""
    if not _is_ours(phase, event):
        return phase, ()
    return _store(phase, Storing(phase.memory, phase.task, event.payload, event.selection))


def delay_store(phase: Storing, event: StoreFailed) -> Step:
    """Hold the payload and wait for room: a second one for this round must never be made."""
    if not _is_ours(phase, event):
        return phase, ()
    delay = full_jitter(phase.failures, event.jitter, base=STORE_AGAIN_SECONDS, ceiling=STORE_AGAIN_CEILING_SECONDS)
    waiting = StoreDelayed(
        phase.memory, phase.task, phase.payload, phase.selection, phase.failures + 1, event.now + delay
    )
    return waiting, ()


def store_again_when_due(phase: StoreDelayed, event: Tick) -> Step:
    """Try again."""
    if event.now < phase.due:
        return phase, ()
    return _store(phase, Storing(phase.memory, phase.task, phase.payload, phase.selection, phase.failures))


def finish(phase: Storing, event: Stored) -> Step:
    """The round is over here; the outbox sees to the rest. In a buffered run its next one waits for the receipt.

    Its neurons stay until the next resync, whether the receipt comes before the next plan or after it.
    """
    if not _is_ours(phase, event):
        return phase, ()
    delivering = Delivering(_remembered(phase), phase.task)
    following = phase.task.following
    if following is not None and following.plan.run != phase.task.plan.run:
        return _move_on(delivering, event.now)
    return (delivering if phase.task.plan.most_stale else Idle(delivering.memory)), ()


def go_on(phase: Delivering, event: Settled) -> Step:
    """Begin the round that came meanwhile."""
    return _move_on(phase, event.now) if _is_ours(phase, event) else (phase, ())


def _remembered(phase: Storing) -> Memory:
    return phase.memory if phase.selection is None else phase.memory.with_selection(phase.selection)


def _left_for(phase: Busy, newer: RoundPlan) -> Memory:
    if isinstance(phase, Storing):
        return _remembered(phase)
    plan = phase.task.plan
    made = isinstance(phase, StoreDelayed | Delivering)
    return phase.memory if made or plan.run == newer.run else phase.memory.before_round(plan.run, plan.round)


def _is_finished_first(phase: Busy, newer: RoundPlan) -> bool:
    """An update of a buffered run counts in its next rounds, also while another run has its turn; but its receipt may
    only come in its own run's turn.
    """
    ours = phase.task.plan
    if isinstance(phase, FetchDelayed):
        return False
    if ours.run != newer.run:
        return ours.most_stale > 0 and not isinstance(phase, Delivering)
    return newer.takes_updates_of(ours)


def _newest(known: Task | None, arrived: Task) -> Task:
    """A plan that is replayed takes no newer one's place."""
    if known is None or known.plan.run != arrived.plan.run:
        return arrived
    return known if known.plan.round > arrived.plan.round else arrived


def _move_on(phase: Busy, now: float) -> Step:
    following = phase.task.following
    if following is None or now >= following.expires:
        return Idle(phase.memory), ()
    return _begin(phase.memory, following, now)


def _begin(memory: Memory, task: Task, now: float) -> Step:
    plan = task.plan
    begun = memory.with_round(plan.run, plan.round)
    selection = memory.selections.get(plan.run)
    if selection is not None and selection.serves(plan):
        waiting = AwaitingSlice(begun, task, selection, due=now + SLICE_WAIT_SECONDS)
        return waiting, (Begin(plan), ExpectSlice(plan))
    return Fetching(begun, task, None), (Begin(plan), Fetch(plan, None))


def _fetch(phase: Busy, selection: Selection | None, failures: int = 0) -> Step:
    return Fetching(phase.memory, phase.task, selection, failures), (Fetch(phase.task.plan, selection),)


def _store(phase: Busy, storing: Storing) -> Step:
    return storing, (Store(phase.task.plan, storing.payload, storing.selection),)


def _is_new(phase: Idle | Busy, event: PlanArrived) -> bool:
    return event.remaining > 0 and event.plan.round > phase.memory.newest.get(event.plan.run, 0)


def _is_ours(phase: Busy, event: RoundEvent) -> bool:
    return _same_round(phase.task.plan, event.run, event.round)


def _same_round(plan: RoundPlan, run: str, number: int) -> bool:
    return (plan.run, plan.round) == (run, number)

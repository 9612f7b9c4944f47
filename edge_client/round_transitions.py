"""What each event does in each phase of a device's round: pure functions (phase, event) -> (phase, commands).

`round_state.TABLE` says which function answers what.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from edge_client.round_events import (
    Begin,
    Command,
    Connected,
    Disconnected,
    End,
    ExpectSlice,
    Fetch,
    FetchFailed,
    ModelFetched,
    NeedArrived,
    PlanArrived,
    ReceiptArrived,
    RoundEvent,
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
    Busy,
    FetchDelayed,
    Fetching,
    Idle,
    Memory,
    Phase,
    Sending,
    Task,
    Training,
)
from wire_protocol.backoff import full_jitter
from wire_protocol.chunking import manifest_of
from wire_protocol.messages import Decline, RoundPlan, encode

SLICE_WAIT_SECONDS = 5.0
"""After this the whole model is fetched by HTTP, where nothing is lost to a full broker queue."""
FETCH_AGAIN_SECONDS = 2.0
FETCH_AGAIN_CEILING_SECONDS = 60.0
ANNOUNCE_FLOOR_SECONDS = 1.0
ANNOUNCE_AGAIN_SECONDS = 3.0
ANNOUNCE_AGAIN_CEILING_SECONDS = 60.0
MAX_RUNS_REMEMBERED = 64

Step = tuple[Phase, tuple[Command, ...]]
_P = TypeVar("_P", bound=Phase)


def note_connected(phase: _P, _event: Connected) -> tuple[_P, tuple[Command, ...]]:
    """Remember that the link is up."""
    return replace(phase, memory=replace(phase.memory, connected=True)), ()


def note_disconnected(phase: _P, _event: Disconnected) -> tuple[_P, tuple[Command, ...]]:
    """Remember that the link is down."""
    return replace(phase, memory=replace(phase.memory, connected=False)), ()


def begin_if_new(phase: Idle, event: PlanArrived) -> Step:
    """Begin the round unless it was begun before or its deadline is past."""
    newest = phase.memory.newest.get(event.plan.run, 0)
    if event.remaining <= 0 or event.plan.round <= newest:
        return phase, ()
    return _begin(phase.memory, Task(event.plan, event.now + event.remaining), event.now)


def prolong_or_replace(phase: Phase, event: PlanArrived) -> Step:
    """Take a new deadline for the round at hand; give it up for a newer one."""
    assert isinstance(phase, Busy)
    if event.remaining > 0 and _same_round(phase.task.plan, event.plan.run, event.plan.round):
        return replace(phase, task=replace(phase.task, expires=event.now + event.remaining)), ()
    following, commands = begin_if_new(Idle(phase.memory), event)
    if not commands:
        return phase, ()
    return following, (End(phase.task.plan, accepted=False, reason="a newer plan came"), *commands)


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


def delay_fetch(phase: Fetching, event: FetchFailed) -> Step:
    """Wait before fetching again."""
    if not _is_ours(phase, event):
        return phase, ()
    delay = full_jitter(phase.failures, event.jitter, base=FETCH_AGAIN_SECONDS, ceiling=FETCH_AGAIN_CEILING_SECONDS)
    return FetchDelayed(phase.memory, phase.task, phase.selection, phase.failures + 1, event.now + delay), ()


def fetch_again_when_due(phase: FetchDelayed, event: Tick) -> Step:
    """Fetch again, or give the round up past its deadline; should its plan be prolonged later, it begins anew."""
    plan = phase.task.plan
    if event.now < phase.due:
        return phase, ()
    if event.now < phase.task.expires:
        return _fetch(phase, phase.selection, phase.failures)
    memory = replace(phase.memory, newest={**phase.memory.newest, plan.run: plan.round - 1})
    return Idle(memory), (End(plan, accepted=False, reason="the model could not be fetched before the deadline"),)


def send_update(phase: Training, event: Trained) -> Step:
    """Send the update, now or when the link is up."""
    return _send(phase, event.payload, event.selection) if _is_ours(phase, event) else (phase, ())


def decline(phase: Fetching | Training, event: TrainingFailed) -> Step:
    """Tell the server, as surely as it is told of an update, that there is none."""
    plan = phase.task.plan
    message = Decline(run=plan.run, round=plan.round, cause=event.cause)
    return _send(phase, encode(message), None) if _is_ours(phase, event) else (phase, ())


def await_answer(phase: Sending, event: Transmitted) -> Step:
    """Give the server time to answer before announcing again."""
    if not (_is_ours(phase, event) and phase.memory.connected):
        return phase, ()
    spread = full_jitter(
        phase.repeats, event.jitter, base=ANNOUNCE_AGAIN_SECONDS, ceiling=ANNOUNCE_AGAIN_CEILING_SECONDS
    )
    return replace(phase, due=event.now + ANNOUNCE_FLOOR_SECONDS + spread), ()


def announce_when_due(phase: Sending, event: Tick) -> Step:
    """Announce the update again; a server that lacks chunks says so."""
    if phase.due is None or event.now < phase.due:
        return phase, ()
    return replace(phase, due=None, repeats=phase.repeats + 1), (_announcement(phase),)


def resume_sending(phase: Sending, event: Connected) -> Step:
    """Send what was never sent, else announce it again: nobody knows what the broken link took along."""
    phase, _ = note_connected(phase, event)
    if not phase.begun:
        return _send_whole(phase)
    return replace(phase, due=None, repeats=0), (_announcement(phase),)


def pause_sending(phase: Sending, event: Disconnected) -> Step:
    """Stop the timer until the link is back."""
    return note_disconnected(replace(phase, due=None), event)


def send_needed(phase: Sending, event: NeedArrived) -> Step:
    """Send the chunks the server lacks."""
    need = event.need
    chunks = tuple(sorted({index for index in need.missing if 0 <= index < phase.manifest.chunk_count}))
    if not chunks or not _same_round(phase.task.plan, need.run, need.round):
        return phase, ()
    command = Send(phase.task.plan, phase.payload, announce=False, chunks=chunks)
    return replace(phase, due=None, repeats=0), (command,)


def finish(phase: Sending, event: ReceiptArrived) -> Step:
    """End the round; the neurons of an accepted update are known to the server until the next resync."""
    receipt, plan = event.receipt, phase.task.plan
    if not _same_round(plan, receipt.run, receipt.round) or receipt.sha256 != phase.manifest.sha256:
        return phase, ()
    memory = phase.memory
    if receipt.accepted and phase.selection is not None:
        memory = replace(memory, selection=phase.selection)
    return Idle(memory), (End(plan, receipt.accepted, receipt.reason),)


def _begin(memory: Memory, task: Task, now: float) -> Step:
    plan = task.plan
    begun = replace(memory, newest=_remember(memory, plan))
    selection = memory.selection
    if selection is not None and selection.serves(plan):
        waiting = AwaitingSlice(begun, task, selection, due=now + SLICE_WAIT_SECONDS)
        return waiting, (Begin(plan), ExpectSlice(plan))
    return Fetching(begun, task, None), (Begin(plan), Fetch(plan, None))


def _remember(memory: Memory, plan: RoundPlan) -> dict[str, int]:
    others = [(run, number) for run, number in memory.newest.items() if run != plan.run]
    return dict([*others[1 - MAX_RUNS_REMEMBERED :], (plan.run, plan.round)])


def _fetch(phase: Busy, selection: Selection | None, failures: int = 0) -> Step:
    return Fetching(phase.memory, phase.task, selection, failures), (Fetch(phase.task.plan, selection),)


def _send(phase: Busy, payload: bytes, selection: Selection | None) -> Step:
    sending = Sending(phase.memory, phase.task, selection, payload, manifest_of(payload))
    return _send_whole(sending) if phase.memory.connected else (sending, ())


def _send_whole(phase: Sending) -> Step:
    everything = tuple(range(phase.manifest.chunk_count))
    command = Send(phase.task.plan, phase.payload, announce=True, chunks=everything)
    return replace(phase, begun=True, due=None, repeats=0), (command,)


def _announcement(phase: Sending) -> Send:
    return Send(phase.task.plan, phase.payload, announce=True, chunks=())


def _is_ours(phase: Busy, event: RoundEvent) -> bool:
    return _same_round(phase.task.plan, event.run, event.round)


def _same_round(plan: RoundPlan, run: str, number: int) -> bool:
    return (plan.run, plan.round) == (run, number)

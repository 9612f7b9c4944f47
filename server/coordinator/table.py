"""The round state machine as a table: (phase, event) -> handler, a function (state, event) -> (state, commands).

Events other than `Tick` only record facts and orders; `Tick(now)` decides, so the shell sends one after every event and
at least twice a second. Times are of a clock that never jumps. What a cell does not list changes nothing: it is late,
repeated, or of another round. `decisions` says what a `Tick` decides, and `step` never raises.

    Waiting --enough online--> Collecting --all heard, or deadline, with a quorum--> Applying --RoundApplied--> Waiting
    Collecting --deadline without a quorum--> Collecting, with a later deadline
    Collecting --deadline without an update, everyone drawn who is online refused--> Waiting, the round is given up
    Collecting --the same, at once if the run is to give up--> Waiting, or Finished where everyone online refused so far
    Collecting --stopped--> Waiting, the round is dropped
    Waiting --all rounds closed, or stopped--> Finished

A round closes early once every device that was online when it opened, and is online now, was counted or refused, and
at least `quorum` were counted. A device that joins during a round is counted when its update comes in time, but not
waited for. A device that was refused takes part in a prolonged round no more, so where only such devices are online, a
round with a new number gives everyone another chance. A run that is to give up does so once everyone online was
refused in a row of rounds that came to nothing. Neurons are chosen at a resync: in the run's first round, after
`resync_every` rounds that were opened, whatever numbers they have, and when it was ordered; with a trial round also
once the first is closed.

Who takes part in a round is drawn by its number (`wire_protocol.participation`). Only those drawn are waited for, and a
number that draws fewer than `quorum` of the devices online (or than all of them, where they are fewer) is passed over,
so that no round waits for nobody; a round whose drawn devices all left is given up at its deadline.

In a buffered run (FedBuff, `aggregation.buffered`) a round also takes late updates, those of earlier rounds, and closes
as soon as `buffer_goal` updates of either kind were counted. A late update counts for goal and quorum; its device has
not been heard in this round.

Where several runs share a fleet, a round is opened or prolonged only in the run's turn (`server.turns`); updates of one
that is open count at any time, and may close it. A paused run opens none; one that is open goes on to its close.

A process that starts anew begins from what the last one left: a round that was open stays open, with those it expected
presumed online until they or the broker say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from server.coordinator import decisions
from server.coordinator import events as event
from server.coordinator import state as phase
from server.coordinator.commands import Command
from server.coordinator.state import State

Step = tuple[State, tuple[Command, ...]]
Handler = Callable[[Any, Any], Step]


def step(state: State, happened: event.Event) -> Step:
    """The next state, and what the shell must do; only `Tick` gives commands."""
    handler = TABLE[type(state.phase)].get(type(happened))
    return (state, ()) if handler is None else handler(state, happened)


def _come(state: State, happened: event.DeviceOnline) -> Step:
    return replace(state, online=state.online | {happened.device}), ()


def _leave(state: State, happened: event.DeviceOffline) -> Step:
    return replace(state, online=state.online - {happened.device}), ()


def _pause(state: State, _: event.Pause) -> Step:
    return replace(state, paused=True), ()


def _resume(state: State, _: event.Resume) -> Step:
    return replace(state, paused=False), ()


def _stop(state: State, _: event.Stop) -> Step:
    return replace(state, stopping=True), ()


def _order_resync(state: State, _: event.ResyncNow) -> Step:
    return replace(state, resync_due=True), ()


def _count(state: State, happened: event.UpdateCounted) -> Step:
    open_round, number = _collecting(state), happened.round
    if number == open_round.round:
        open_round = replace(open_round, counted=open_round.counted | {happened.device})
    elif number < open_round.round and state.schedule.buffer_goal is not None:
        open_round = replace(open_round, late=open_round.late | {(number, happened.device)})
    return replace(state, phase=open_round), ()


def _refuse(state: State, happened: event.UpdateRefused) -> Step:
    open_round = _collecting(state)
    if happened.round == open_round.round:
        open_round = replace(open_round, refused=open_round.refused | {happened.device})
    return replace(state, phase=open_round), ()


def _close(state: State, happened: event.RoundApplied) -> Step:
    if state.phase != phase.Applying(happened.round):
        return state, ()
    return replace(state, phase=phase.Waiting(needed=1), closed=state.closed + 1), ()


def _collecting(state: State) -> phase.Collecting:
    assert isinstance(state.phase, phase.Collecting)
    return state.phase


_IN_EVERY_PHASE: dict[type[event.Event], Handler] = {
    event.DeviceOnline: _come,
    event.DeviceOffline: _leave,
    event.Pause: _pause,
    event.Resume: _resume,
    event.Stop: _stop,
    event.ResyncNow: _order_resync,
}

TABLE: Mapping[type[phase.Phase], Mapping[type[event.Event], Handler]] = {
    phase.Waiting: {
        **_IN_EVERY_PHASE,
        event.Tick: decisions.between_rounds,
    },
    phase.Collecting: {
        **_IN_EVERY_PHASE,
        event.UpdateCounted: _count,
        event.UpdateRefused: _refuse,
        event.Tick: decisions.in_a_round,
    },
    phase.Applying: {
        **_IN_EVERY_PHASE,
        event.RoundApplied: _close,
    },
    phase.Finished: {
        event.DeviceOnline: _come,
        event.DeviceOffline: _leave,
    },
}

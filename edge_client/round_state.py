"""A device's round as a sans-I/O state machine: (phase, event) -> (next phase, commands).

All that decides what a device does when is in `TABLE`, the functions it names and the constants beside them. What a
cell does not list is ignored in that phase: it is late, early, repeated or for another round. `advance` is total: it
never raises, whatever comes in whatever order.

          plan (new)              plan (new)
    Idle ------------> AwaitingSlice      Fetching <--- FetchDelayed
                          |  | slice          |  |___________^   failed, due
                          |  |                | fetched
                          |  v                v
                          | Training <--------+
                          |    | trained      ^  | failed
                 timed out|    v              |  v
                          |  Sending <--------|--+      -- receipt --> Idle
                          +----> Fetching ----+

A newer plan leaves any phase for the start of its own round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge_client import round_events as event
from edge_client import round_phases as phase
from edge_client import round_transitions as on

Handler = Callable[[Any, Any], on.Step]

_IN_EVERY_ROUND: dict[type[event.Event], Handler] = {
    event.PlanArrived: on.prolong_or_replace,
    event.Connected: on.note_connected,
    event.Disconnected: on.note_disconnected,
}

TABLE: Mapping[type[phase.Phase], Mapping[type[event.Event], Handler]] = {
    phase.Idle: {
        event.PlanArrived: on.begin_if_new,
        event.Connected: on.note_connected,
        event.Disconnected: on.note_disconnected,
    },
    phase.AwaitingSlice: {
        **_IN_EVERY_ROUND,
        event.SliceArrived: on.train_on_slice,
        event.Tick: on.fetch_when_due,
    },
    phase.Fetching: {
        **_IN_EVERY_ROUND,
        event.ModelFetched: on.train_on_model,
        event.FetchFailed: on.delay_fetch,
        event.TrainingFailed: on.decline,
    },
    phase.FetchDelayed: {
        **_IN_EVERY_ROUND,
        event.Tick: on.fetch_again_when_due,
    },
    phase.Training: {
        **_IN_EVERY_ROUND,
        event.Trained: on.send_update,
        event.TrainingFailed: on.decline,
        event.SliceRefused: on.fetch_instead,
    },
    phase.Sending: {
        **_IN_EVERY_ROUND,
        event.Connected: on.resume_sending,
        event.Disconnected: on.pause_sending,
        event.Transmitted: on.await_answer,
        event.Tick: on.announce_when_due,
        event.NeedArrived: on.send_needed,
        event.ReceiptArrived: on.finish,
    },
}


def advance(current: phase.Phase, happened: event.Event) -> on.Step:
    """The phase after an event, and what to do now."""
    handler = TABLE[type(current)].get(type(happened))
    return (current, ()) if handler is None else handler(current, happened)

"""A device's round as a sans-I/O state machine: (phase, event) -> (next phase, commands).

All that decides what a device does when is in `TABLE`, the functions it names and the constants beside them. What a
cell does not list is ignored in that phase: it is late, early, repeated or for another round. `advance` is total: it
never raises, whatever comes in whatever order.

          plan (new)              plan (new)
    Idle ------------> AwaitingSlice      Fetching <--- FetchDelayed
                          |  | slice          |  |___________^   failed, due
                          |  |                | fetched
                          |  v                v
                          | Training <--------+      StoreDelayed
                          |    | answered     |          ^ | no room, due
                 timed out|    v              | answered | v
                          |  Storing <--------+--------- Storing   -- stored --> Idle
                          +----> Fetching

A newer plan leaves any phase for the start of its own round. What becomes of a stored update is `delivery`'s affair.

Where the newer plan still takes updates of the round at hand (a buffered run), that round is finished first. The next
one begins with its receipt, so that one payload goes over the link at a time and is not overtaken:

    Storing -- stored --> Delivering -- settled --> the newest plan's round, or Idle

Another run's plan is followed at once, and the round at hand counts as not begun; a buffered run's is finished first,
up to its payload.
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
    event.UpdateAccepted: on.remember_selection,
}

TABLE: Mapping[type[phase.Phase], Mapping[type[event.Event], Handler]] = {
    phase.Idle: {
        event.PlanArrived: on.begin_if_new,
        event.UpdateAccepted: on.remember_selection,
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
        event.Answered: on.store,
    },
    phase.FetchDelayed: {
        **_IN_EVERY_ROUND,
        event.Tick: on.fetch_again_when_due,
    },
    phase.Training: {
        **_IN_EVERY_ROUND,
        event.Answered: on.store,
        event.SliceRefused: on.fetch_instead,
        event.FetchFailed: on.delay_fetch,
    },
    phase.Storing: {
        **_IN_EVERY_ROUND,
        event.Stored: on.finish,
        event.StoreFailed: on.delay_store,
    },
    phase.StoreDelayed: {
        **_IN_EVERY_ROUND,
        event.Tick: on.store_again_when_due,
    },
    phase.Delivering: {
        **_IN_EVERY_ROUND,
        event.Settled: on.go_on,
    },
}


def advance(current: phase.Phase, happened: event.Event) -> on.Step:
    """The phase after an event, and what to do now."""
    handler = TABLE[type(current)].get(type(happened))
    return (current, ()) if handler is None else handler(current, happened)

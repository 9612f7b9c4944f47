"""How what waits in the outbox reaches the server, as a sans-I/O state machine: (state, event) -> (state, commands).

Each parcel is announced by its manifest until the server answers: a `Need` names the chunks it has room for, which then
are sent; a `Receipt` for the parcel's hash ends it. A parcel is announced again after a floor and a random wait that
grows while the server is silent (full jitter), and at once when the link is back. One thing is sent at a time, for the
newest parcel that has something to send, a few chunks at a time, so that a newer one can overtake. While the link is
down nothing is sent and no time counts. `advance` is total: it never raises, whatever comes in whatever order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edge_client.delivery_events import (
    Added,
    Announce,
    Command,
    Connected,
    Disconnected,
    NeedArrived,
    ReceiptArrived,
    Removed,
    SendChunks,
    Settle,
    Transmitted,
)
from edge_client.outbox import Parcel
from edge_client.round_events import Event, Tick
from wire_protocol.backoff import full_jitter

ANNOUNCE_FLOOR_SECONDS = 1.0
ANNOUNCE_AGAIN_SECONDS = 3.0
ANNOUNCE_AGAIN_CEILING_SECONDS = 60.0
CHUNKS_AT_ONCE = 16


@dataclass(frozen=True)
class Waiting:
    """A parcel without a receipt. `needed` are chunks asked for and not yet sent.

    `repeats` counts announcements since the server was last heard on it; `due` is when to announce it, None while it
    is being sent or chunks are to be sent first.
    """

    parcel: Parcel
    due: float | None
    needed: tuple[int, ...] = ()
    repeats: int = 0


@dataclass(frozen=True)
class Delivery:
    """All parcels that wait, the newest first; `sending` is what is on its way to the broker."""

    connected: bool = False
    waiting: tuple[Waiting, ...] = ()
    sending: Announce | SendChunks | None = None


Step = tuple[Delivery, tuple[Command, ...]]


def begin(parcels: tuple[Parcel, ...]) -> Delivery:
    """The state of a device that has just started, from what it found in its outbox."""
    return Delivery(waiting=_sorted(Waiting(parcel, due=None) for parcel in parcels))


def advance(state: Delivery, event: Event) -> Step:
    """The state after an event, and what to do now."""
    handler = _HANDLERS.get(type(event))
    if handler is None:
        return state, ()
    following, commands = handler(state, event)
    following, more = _send_next(following, event.now)
    return following, (*commands, *more)


def due(state: Delivery) -> float | None:
    """When the machine wants a `Tick` if nothing else happens, on the clock of events."""
    if not state.connected or state.sending is not None:
        return None
    return min((one.due for one in state.waiting if one.due is not None), default=None)


def holds(state: Delivery, parcel: Parcel) -> bool:
    """Whether a parcel still waits for its receipt."""
    return any(one.parcel == parcel for one in state.waiting)


def _connect(state: Delivery, event: Connected) -> Step:
    """Announce everything: nobody knows what a broken link took along."""
    fresh = tuple(Waiting(one.parcel, due=event.now) for one in state.waiting)
    return replace(state, connected=True, waiting=fresh), ()


def _disconnect(state: Delivery, _event: Disconnected) -> Step:
    return replace(state, connected=False, waiting=tuple(Waiting(one.parcel, due=None) for one in state.waiting)), ()


def _add(state: Delivery, event: Added) -> Step:
    if _find(state, *event.parcel.key) is not None:
        return state, ()
    fresh = Waiting(event.parcel, due=event.now if state.connected else None)
    return replace(state, waiting=_sorted([*state.waiting, fresh])), ()


def _remove(state: Delivery, event: Removed) -> Step:
    return _without(state, event.parcel), ()


def _send_needed(state: Delivery, event: NeedArrived) -> Step:
    """Note what is asked for, but not twice what is on its way already."""
    one = _find(state, event.need.run, event.need.round)
    if one is None or not state.connected:
        return state, ()
    asked = {index for index in event.need.missing if index < one.parcel.manifest.chunk_count}
    if not asked:
        return state, ()
    on_its_way = _is_sending(state, one.parcel)
    if on_its_way and isinstance(state.sending, SendChunks):
        asked.difference_update(state.sending.chunks)
    needed = tuple(sorted(asked.union(one.needed)))
    when = None if needed or on_its_way else one.due
    return _with(state, replace(one, needed=needed, repeats=0, due=when)), ()


def _settle(state: Delivery, event: ReceiptArrived) -> Step:
    """Only the receipt for this very payload ends it."""
    one = _find(state, event.receipt.run, event.receipt.round)
    if one is None or event.receipt.sha256 != one.parcel.manifest.sha256:
        return state, ()
    return _without(state, one.parcel), (Settle(one.parcel, event.receipt),)


def _await_answer(state: Delivery, event: Transmitted) -> Step:
    """Listen for a while before announcing what was just sent again."""
    sent, state = state.sending, replace(state, sending=None)
    one = None if sent is None else _find(state, *sent.parcel.key)
    if one is None or one.needed or not state.connected:
        return state, ()
    spread = full_jitter(one.repeats, event.jitter, base=ANNOUNCE_AGAIN_SECONDS, ceiling=ANNOUNCE_AGAIN_CEILING_SECONDS)
    repeats = one.repeats + isinstance(sent, Announce)
    return _with(state, replace(one, due=event.now + ANNOUNCE_FLOOR_SECONDS + spread, repeats=repeats)), ()


def _pass_time(state: Delivery, _event: Tick) -> Step:
    return state, ()


_HANDLERS: Mapping[type[Event], Callable[[Delivery, Any], Step]] = {
    Connected: _connect,
    Disconnected: _disconnect,
    Added: _add,
    Removed: _remove,
    NeedArrived: _send_needed,
    ReceiptArrived: _settle,
    Transmitted: _await_answer,
    Tick: _pass_time,
}


def _send_next(state: Delivery, now: float) -> Step:
    if not state.connected or state.sending is not None:
        return state, ()
    for one in state.waiting:
        if one.needed:
            chunks, rest = one.needed[:CHUNKS_AT_ONCE], one.needed[CHUNKS_AT_ONCE:]
            return _sending(state, replace(one, needed=rest, due=None), SendChunks(one.parcel, chunks))
        if one.due is not None and one.due <= now:
            return _sending(state, replace(one, due=None), Announce(one.parcel))
    return state, ()


def _sending(state: Delivery, one: Waiting, command: Announce | SendChunks) -> Step:
    return replace(_with(state, one), sending=command), (command,)


def _find(state: Delivery, run: str, number: int) -> Waiting | None:
    return next((one for one in state.waiting if one.parcel.key == (run, number)), None)


def _with(state: Delivery, changed: Waiting) -> Delivery:
    waiting = tuple(changed if one.parcel.key == changed.parcel.key else one for one in state.waiting)
    return replace(state, waiting=waiting)


def _without(state: Delivery, parcel: Parcel) -> Delivery:
    return replace(state, waiting=tuple(one for one in state.waiting if one.parcel.key != parcel.key))


def _sorted(waiting: Iterable[Waiting]) -> tuple[Waiting, ...]:
    return tuple(sorted(waiting, key=lambda one: -one.parcel.sequence))


def _is_sending(state: Delivery, parcel: Parcel) -> bool:
    return state.sending is not None and state.sending.parcel == parcel

"""What a `Tick` decides: of the rules of its phase the first that holds. `table` says how they go together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from server.coordinator.commands import (
    AbandonRound,
    CloseRound,
    Command,
    DropRound,
    ExtendRound,
    Finish,
    GiveUp,
    OpenRound,
)
from server.coordinator.events import Tick
from server.coordinator.state import Applying, Collecting, Finished, State, Waiting

_DRAWS_TRIED = 1000
"""At one `Tick`, some milliseconds, for a round that draws enough; the next `Tick` tries the following numbers."""

_Step = tuple[State, tuple[Command, ...]]
_Condition = Callable[[State, Tick], bool]
_Decision = Callable[[State, Tick], _Step]


def between_rounds(state: State, tick: Tick) -> _Step:
    """Open a round, or end the run."""
    return _first_that_holds(_BETWEEN_ROUNDS, state, tick)


def in_a_round(state: State, tick: Tick) -> _Step:
    """Close the open round, prolong it, or let it come to nothing."""
    return _first_that_holds(_IN_A_ROUND, state, tick)


def _first_that_holds(rules: tuple[tuple[_Condition, _Decision], ...], state: State, tick: Tick) -> _Step:
    decision = next((decision for holds, decision in rules if holds(state, tick)), None)
    return (state, ()) if decision is None else decision(state, tick)


def _is_over(state: State, _: Tick) -> bool:
    return state.is_over


def _may_open(state: State, tick: Tick) -> bool:
    return tick.turn and state.may_open


def _is_stopping(state: State, _: Tick) -> bool:
    return state.stopping


def _comes_to_nothing(state: State, tick: Tick) -> bool:
    """Nobody was counted, nobody online can be, and it is time to say so."""
    phase = _collecting(state)
    if not state.online or phase.updates or not state.schedule.drawn(phase.round, state.online) <= phase.refused:
        return False
    return tick.now >= phase.deadline or (state.schedule.give_up and bool(phase.refused))


def _lacks_its_quorum(state: State, tick: Tick) -> bool:
    phase = _collecting(state)
    return tick.now >= phase.deadline and phase.updates < state.schedule.quorum


def _has_all_it_waits_for(state: State, tick: Tick) -> bool:
    phase, schedule = _collecting(state), state.schedule
    full = schedule.buffer_goal is not None and phase.updates >= schedule.buffer_goal
    all_heard = phase.expected & state.online <= phase.counted | phase.refused
    return phase.updates >= schedule.quorum and (tick.now >= phase.deadline or full or all_heard)


def _finish(state: State, _: Tick) -> _Step:
    return replace(state, phase=Finished()), (Finish(),)


def _drop(state: State, _: Tick) -> _Step:
    return replace(state, phase=Waiting(needed=1)), (DropRound(_collecting(state).round),)


def _forget(state: State, _: Tick) -> _Step:
    phase = _collecting(state)
    refused = state.refused | phase.refused
    if state.schedule.give_up and phase.refused and state.online <= refused:
        return replace(state, phase=Finished()), (GiveUp(phase.round),)
    return replace(state, phase=Waiting(needed=1), refused=refused), (AbandonRound(phase.round),)


def _prolong(state: State, tick: Tick) -> _Step:
    phase, later = _collecting(state), tick.now + state.schedule.round_seconds
    if not tick.turn:
        return state, ()
    return replace(state, phase=replace(phase, deadline=later)), (ExtendRound(phase.round, later),)


def _apply(state: State, _: Tick) -> _Step:
    number = _collecting(state).round
    return replace(state, phase=Applying(number), refused=frozenset()), (CloseRound(number),)


def _open(state: State, tick: Tick) -> _Step:
    number, expected = _next_drawing(state)
    if not expected:
        return replace(state, next_round=number), ()
    chosen, since = state.resync_round, state.since_resync
    if chosen is None or _is_resync(state):
        chosen, since = number, 0
    deadline = tick.now + state.schedule.round_seconds
    opened = replace(
        state,
        phase=Collecting(number, deadline, expected),
        next_round=number + 1,
        resync_round=chosen,
        since_resync=since + 1,
        resync_due=False,
    )
    return opened, (OpenRound(number, chosen, deadline),)


def _is_resync(state: State) -> bool:
    after_trial = state.schedule.trial_round and state.closed == 1
    return state.resync_due or after_trial or state.since_resync >= state.schedule.resync_every


def _next_drawing(state: State) -> tuple[int, frozenset[str]]:
    """The first number that draws enough devices and whom it draws; nobody where many numbers were tried in vain."""
    enough = min(state.schedule.quorum, len(state.online))
    end = state.next_round + max(1, _DRAWS_TRIED // len(state.online))
    for number in range(state.next_round, end):
        drawn = state.schedule.drawn(number, state.online)
        if len(drawn) >= enough:
            return number, drawn
    return end, frozenset()


def _collecting(state: State) -> Collecting:
    assert isinstance(state.phase, Collecting)
    return state.phase


_BETWEEN_ROUNDS: tuple[tuple[_Condition, _Decision], ...] = (
    (_is_over, _finish),
    (_may_open, _open),
)
_IN_A_ROUND: tuple[tuple[_Condition, _Decision], ...] = (
    (_is_stopping, _drop),
    (_comes_to_nothing, _forget),
    (_lacks_its_quorum, _prolong),
    (_has_all_it_waits_for, _apply),
)

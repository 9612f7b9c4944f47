"""How a device updates itself, as a sans-I/O state machine: (phase, event) -> (next phase, commands).

    Resting -- offer --> Fetching -- fetched --> Unpacking -- unpacked --> Ready -- no round --> Switching -- written
       ^                  |    ^                                                                             |
       |     failed, round|    | due                                                                         v
       |                  v    |                                                                          Leaving
       |                  Delayed                                                                            :
       |                                                                                          (a start, on trial)
       +-- written -- Confirming <-- ran 10 minutes, and had a round counted or idled -- Proving <...........:
                                                                                             |
                                                              no link for two hours, a fault: Leaving

As Mender, RAUC and SWUpdate do: what runs is never changed, the new release stands beside it, is tried, and has to say
itself that it works; who does not say so in `MOST_STARTS` starts is not started again (`launch`), which needs nothing
of the new release. Rounds go first: nothing is fetched or left while one is under way. `advance` is total.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any

from edge_client.round_events import Event, Tick
from edge_client.updates import update_phases as up
from edge_client.updates.again import AGAIN_SECONDS, again_after
from edge_client.updates.choice import MOST_RELAPSES, Choice
from edge_client.updates.update_phases import Known, Outcome, Phase
from wire_protocol.release_version import is_newer
from wire_protocol.releases import ReleaseStatus

PROOF_SECONDS = 600.0
"""A release that crashes within minutes has not proven itself, whatever it did before."""
UNLINKED_SECONDS = 7200.0
"""Without a link a release on trial is started again, which counts as a start; so most outages are outlived."""

_WAITING = (up.Resting, up.Delayed, up.Ready)

Step = tuple[Phase, tuple[up.Command, ...]]
Handler = Callable[[Any, Any], Step]


def begin(own: str, running: str, choice: Choice, now: float) -> Step:
    """The phase of a start; what was started and does not run now has failed, a release that could not be started, or
    that an upgrade of the package overtook, is forgotten.
    """
    known = Known(own, running, choice, began=now)
    if choice.trial and choice.trial == running:
        outcome = Outcome(running, choice.attempt, "trial")
        return up.Proving(replace(known, outcome=outcome), now, now), ()
    if choice.trial and choice.starts and is_newer(choice.trial, own):
        reason = f"it did not prove itself in {choice.starts} starts; {running} runs again"
        outcome = Outcome(choice.trial, choice.attempt, "failed", reason)
        return _begin_anew(replace(known, outcome=outcome), choice.failed_trial().above(own))
    if running != choice.confirmed and choice.starts >= MOST_RELAPSES and is_newer(choice.confirmed, own):
        reason = f"it ended {choice.starts} times in a row, soon after its start; {running} runs again"
        outcome = Outcome(choice.confirmed, choice.confirmed_attempt, "failed", reason)
        return _begin_anew(replace(known, outcome=outcome), choice.relapsed())
    return _begin_anew(known, (choice.without_trial() if choice.trial else choice).above(own))


def _begin_anew(known: Known, choice: Choice) -> Step:
    changed = choice != known.choice
    return up.Resting(replace(known, choice=choice)), ((up.Write(choice),) if changed else ())


def advance(phase: Phase, happened: Event) -> Step:
    """The phase after an event, and what to do now."""
    handler = TABLE[type(phase)].get(type(happened)) or _ALWAYS.get(type(happened))
    following, commands = (phase, ()) if handler is None else handler(phase, happened)
    if isinstance(happened, Tick) and isinstance(following, _WAITING) and happened.now >= _lived_at(following.known):
        choice = following.known.choice.lived()
        return replace(following, known=replace(following.known, choice=choice)), (*commands, up.Write(choice))
    return following, commands


def due(phase: Phase) -> float | None:
    """When the machine wants a `Tick` if nothing else happens, on the clock of events."""
    moment = inf
    if isinstance(phase, _WAITING):
        moment = _lived_at(phase.known)
    if isinstance(phase, up.Delayed | up.Ready) and not phase.known.busy:
        moment = min(moment, phase.due)
    if isinstance(phase, up.Confirming) and phase.due is not None:
        moment = phase.due
    if isinstance(phase, up.Proving) and not phase.known.busy:
        moment = min(_proven_at(phase), _hopeless_at(phase))
    return None if moment == inf else moment


def outcome_of(phase: Phase) -> Outcome:
    """What to report of the newest offer."""
    if not isinstance(phase, up.Pending):
        return phase.known.outcome
    status: ReleaseStatus = "fetching"
    if isinstance(phase, up.Delayed):
        status = "waiting"
    elif isinstance(phase, up.Ready | up.Switching):
        status = "ready"
    return Outcome(phase.wanted.release.version, phase.wanted.attempt, status, phase.known.outcome.reason)


def _judge(known: Known) -> Step:
    """What comes of the newest offer where nothing is on its way."""
    offered = known.offered
    if offered is None:
        return up.Resting(known), ()
    version, attempt = offered.release.version, offered.attempt
    if version == known.running:
        return _rest(known, Outcome(version, attempt, "confirmed"))
    if not is_newer(version, known.running):
        return _rest(known, Outcome(version, attempt, "refused", f"{known.running} runs, which is not older"))
    if known.choice.failed.get(version, 0) >= attempt:
        told = known.outcome if known.outcome.version == version else Outcome()
        return _rest(known, Outcome(version, attempt, "failed", told.reason or "it failed here before"))
    known = replace(known, outcome=Outcome(version, attempt))
    if known.busy:
        return up.Delayed(known, offered), ()
    return up.Fetching(known, offered), (up.Fetch(offered.release),)


def _rest(known: Known, outcome: Outcome) -> Step:
    return up.Resting(replace(known, outcome=outcome)), ()


def _lived_at(known: Known) -> float:
    """When what runs, a confirmed release, has run for long; infinite where that is written down."""
    to_live = known.running == known.choice.confirmed and known.choice.starts > 0
    return known.began + PROOF_SECONDS if to_live else inf


def _note_offer(phase: Phase, event: up.OfferCame) -> Step:
    return replace(phase, known=replace(phase.known, offered=event.offered)), ()


def _judge_offer(phase: Phase, event: up.OfferCame) -> Step:
    return _judge(replace(phase.known, offered=event.offered))


def _refuse(phase: Phase, event: up.NoneFits) -> Step:
    known = replace(phase.known, offered=None, outcome=event.outcome)
    idle = isinstance(phase, up.Resting | up.Delayed | up.Ready)
    return (up.Resting(known) if idle else replace(phase, known=known)), ()


def _change_wanted(phase: up.Pending, event: up.OfferCame) -> Step:
    """Another offer, or none, in place of the one that is on its way."""
    known = replace(phase.known, offered=event.offered)
    if event.offered == phase.wanted:
        return replace(phase, known=known), ()
    stop = (up.StopFetching(),) if isinstance(phase, up.Fetching) else ()
    following, commands = _judge(replace(known, outcome=Outcome()))
    return following, (*stop, *commands)


def _note_round(phase: Phase, event: up.RoundChanged) -> Step:
    return replace(phase, known=replace(phase.known, busy=event.busy)), ()


def _yield_to_round(phase: up.Fetching, event: up.RoundChanged) -> Step:
    known = replace(phase.known, busy=event.busy)
    if not event.busy:
        return replace(phase, known=known), ()
    return up.Delayed(known, phase.wanted, phase.failures, event.now), (up.StopFetching(),)


def _fetch_when_due(phase: up.Delayed, event: Event) -> Step:
    busy = event.busy if isinstance(event, up.RoundChanged) else phase.known.busy
    known = replace(phase.known, busy=busy)
    if busy or event.now < phase.due:
        return replace(phase, known=known), ()
    known = replace(known, outcome=replace(known.outcome, reason=""))
    return up.Fetching(known, phase.wanted, phase.failures), (up.Fetch(phase.wanted.release),)


def _unpack(phase: up.Fetching, _event: up.Fetched) -> Step:
    return up.Unpacking(phase.known, phase.wanted, phase.failures), (up.Unpack(phase.wanted.release),)


def _delay(phase: up.Pending, event: up.NotNow) -> Step:
    known = replace(phase.known, outcome=replace(phase.known.outcome, reason=event.reason))
    again = event.now + again_after(phase.failures, event.jitter)
    if isinstance(phase, up.Switching):
        return up.Ready(known, phase.wanted, phase.failures + 1, again), ()
    return up.Delayed(known, phase.wanted, phase.failures + 1, again), ()


def _give_up(phase: up.Unpacking, event: up.Illegal) -> Step:
    version, attempt = phase.wanted.release.version, phase.wanted.attempt
    choice = phase.known.choice.with_failed(version, attempt)
    outcome = Outcome(version, attempt, "failed", event.reason)
    return up.Resting(replace(phase.known, choice=choice, outcome=outcome)), (up.Write(choice),)


def _be_ready(phase: up.Unpacking, event: up.Unpacked) -> Step:
    if phase.known.offered != phase.wanted:
        return _judge(replace(phase.known, outcome=Outcome()))
    return _switch_when_due(up.Ready(phase.known, phase.wanted, 0, event.now), event)


def _switch_when_due(phase: up.Ready, event: Event) -> Step:
    busy = event.busy if isinstance(event, up.RoundChanged) else phase.known.busy
    known = replace(phase.known, busy=busy)
    if busy or event.now < phase.due:
        return replace(phase, known=known), ()
    choice = known.choice.with_trial(phase.wanted.release.version, phase.wanted.attempt)
    return up.Switching(known, phase.wanted, phase.failures), (up.Write(choice),)


def _leave(phase: up.Switching, event: up.Written) -> Step:
    if event.choice.trial != phase.wanted.release.version:
        return phase, ()
    known = replace(phase.known, choice=event.choice, outcome=outcome_of(phase))
    leave = up.Leave(f"release {phase.wanted.release.version} is tried")
    return up.Leaving(known), (() if known.busy else (leave,))


def _leave_after_round(phase: up.Leaving, event: up.RoundChanged) -> Step:
    known = replace(phase.known, busy=event.busy)
    return up.Leaving(known), (() if event.busy else (up.Leave("the round is over"),))


def _note_link(phase: up.Proving, event: up.LinkChanged) -> Step:
    return replace(phase, linked=event.up, changed=event.now), ()


def _note_trial_round(phase: up.Proving, event: up.RoundChanged) -> Step:
    return replace(phase, known=replace(phase.known, busy=event.busy), idle=event.now), ()


def _note_counted(phase: up.Proving, event: up.RoundCounted) -> Step:
    return _prove_when_due(replace(phase, counted=True), event)


def _proven_at(phase: up.Proving) -> float:
    if not phase.linked:
        return inf
    began = phase.known.began
    since = began if phase.counted else max(began, phase.idle, phase.changed)
    return since + PROOF_SECONDS


def _hopeless_at(phase: up.Proving) -> float:
    return inf if phase.linked else phase.changed + UNLINKED_SECONDS


def _prove_when_due(phase: up.Proving, event: Event) -> Step:
    if phase.known.busy:
        return phase, ()
    if event.now >= _proven_at(phase):
        return _confirm(phase, event)
    if event.now >= _hopeless_at(phase):
        return _doubt(phase, f"release {phase.known.running} on trial has had no link for {UNLINKED_SECONDS:g} s")
    return phase, ()


def _confirm(phase: up.Proving, _event: Event) -> Step:
    return up.Confirming(phase.known), (up.Write(phase.known.choice.proven()),)


def _doubt(phase: up.Proving, reason: str) -> Step:
    """Started again, which counts; a round under way is not thrown away for it."""
    return up.Leaving(phase.known), (() if phase.known.busy else (up.Leave(reason),))


def _see_fault(phase: up.Proving, _event: up.FaultSeen) -> Step:
    return _doubt(phase, f"release {phase.known.running} on trial has failed")


def _confirm_again(phase: up.Confirming, event: up.NotNow) -> Step:
    return replace(phase, due=event.now + AGAIN_SECONDS), ()


def _confirm_when_due(phase: up.Confirming, event: Tick) -> Step:
    if phase.due is None or event.now < phase.due:
        return phase, ()
    return replace(phase, due=None), (up.Write(phase.known.choice.proven()),)


def _be_confirmed(phase: up.Confirming, event: up.Written) -> Step:
    if event.choice.confirmed != phase.known.running:
        return phase, ()
    outcome = Outcome(phase.known.running, phase.known.choice.attempt, "confirmed")
    known = replace(phase.known, choice=event.choice, outcome=outcome)
    return _judge(known) if known.offered is not None else (up.Resting(known), ())


_ALWAYS: Mapping[type[Event], Handler] = {
    up.OfferCame: _note_offer,
    up.NoneFits: _refuse,
    up.RoundChanged: _note_round,
}

TABLE: Mapping[type[Phase], Mapping[type[Event], Handler]] = {
    up.Resting: {up.OfferCame: _judge_offer},
    up.Fetching: {
        up.OfferCame: _change_wanted,
        up.RoundChanged: _yield_to_round,
        up.Fetched: _unpack,
        up.NotNow: _delay,
    },
    up.Delayed: {up.OfferCame: _change_wanted, up.RoundChanged: _fetch_when_due, Tick: _fetch_when_due},
    up.Unpacking: {up.Unpacked: _be_ready, up.Illegal: _give_up, up.NotNow: _delay},
    up.Ready: {up.OfferCame: _change_wanted, up.RoundChanged: _switch_when_due, Tick: _switch_when_due},
    up.Switching: {up.Written: _leave, up.NotNow: _delay},
    up.Leaving: {up.RoundChanged: _leave_after_round},
    up.Proving: {
        up.LinkChanged: _note_link,
        up.RoundChanged: _note_trial_round,
        up.RoundCounted: _note_counted,
        up.FaultSeen: _see_fault,
        Tick: _prove_when_due,
    },
    up.Confirming: {up.Written: _be_confirmed, up.NotNow: _confirm_again, Tick: _confirm_when_due},
}

"""The round state machine: facts come in as events, decisions go out as commands. No input or output, no clock.

All that affects the course of a run is in this file. Events other than `Tick` only record facts; `Tick(now)` decides,
so the shell sends one after every event and at least twice a second. Times are of a clock that never jumps.

    Waiting --enough online--> Collecting --all heard, or deadline, with a quorum--> Applying --RoundApplied--> Waiting
    Collecting --deadline without a quorum--> Collecting, with a later deadline
    Collecting --deadline without an update, everyone drawn who is online refused--> Waiting, the round is given up
    Collecting --the same, at once if the run is to give up--> Waiting, or Finished where everyone online refused so far
    Waiting --all rounds closed--> Finished

A round closes early once every device that was online when it opened, and is online now, was counted or refused, and
at least `quorum` were counted. A device that joins during a round is counted when its update comes in time, but not
waited for. A device that was refused takes part in a prolonged round no more, so where only such devices are online, a
round with a new number gives everyone another chance. A run that is to give up does so once everyone online was
refused in a row of rounds that came to nothing. Neurons are chosen at a resync: in the run's first round and after
`resync_every` rounds that were opened, whatever numbers they have; with a trial round also once the first is closed.

Who takes part in a round is drawn by its number (`wire_protocol.participation`). Only those drawn are waited for, and a
number that draws fewer than `quorum` of the devices online (or than all of them, where they are fewer) is passed over,
so that no round waits for nobody; a round whose drawn devices all left is given up at its deadline.

In a buffered run (FedBuff, `aggregation.buffered`) a round also takes late updates, those of earlier rounds, and closes
as soon as `buffer_goal` updates of either kind were counted. A late update counts for goal and quorum; its device has
not been heard in this round.

A process that starts anew begins from what the last one left: a round that was open stays open, with those it expected
presumed online until they or the broker say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from wire_protocol.errors import require
from wire_protocol.participation import takes_part

_DRAWS_TRIED = 1000
"""At one `Tick`, some milliseconds, for a round that draws enough; the next `Tick` tries the following numbers."""


@dataclass(frozen=True)
class DeviceOnline:
    """The device said that it is there."""

    device: str


@dataclass(frozen=True)
class DeviceOffline:
    """The device said goodbye, or the broker did in its name."""

    device: str


@dataclass(frozen=True)
class UpdateCounted:
    """The device's update of this round is durably counted; of an earlier round, it is late."""

    device: str
    round: int


@dataclass(frozen=True)
class UpdateRefused:
    """The device's update of this round was refused for good, or it said that it has none: it is not waited for."""

    device: str
    round: int


@dataclass(frozen=True)
class RoundApplied:
    """The closed round's new model version is durable."""

    round: int


@dataclass(frozen=True)
class Tick:
    """The time, in seconds of a clock that never jumps."""

    now: float


Event = DeviceOnline | DeviceOffline | UpdateCounted | UpdateRefused | RoundApplied | Tick


@dataclass(frozen=True)
class OpenRound:
    """Publish a plan; neurons are those chosen at `resync_round`, which may be this round."""

    round: int
    resync_round: int
    deadline: float


@dataclass(frozen=True)
class ExtendRound:
    """Too few were counted in time: publish the plan again with a later deadline."""

    round: int
    deadline: float


@dataclass(frozen=True)
class CloseRound:
    """Take no more updates, apply their mean, and report `RoundApplied`."""

    round: int


@dataclass(frozen=True)
class AbandonRound:
    """Nobody was counted in time and nobody online can be: forget the round."""

    round: int


@dataclass(frozen=True)
class GiveUp:
    """Everyone online was refused and the run is to end then: forget the round and say so."""

    round: int


@dataclass(frozen=True)
class Finish:
    """All rounds are closed."""


Command = OpenRound | ExtendRound | CloseRound | AbandonRound | GiveUp | Finish


@dataclass(frozen=True)
class Waiting:
    """No round is open; the next opens when `needed` devices are online."""

    needed: int


@dataclass(frozen=True)
class Collecting:
    """A round is open; `expected` were online when it opened, and drawn for it. `late` updates are named by round and
    device.
    """

    round: int
    deadline: float
    expected: frozenset[str]
    counted: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    late: frozenset[tuple[int, str]] = frozenset()

    @property
    def updates(self) -> int:
        """Updates counted in this round."""
        return len(self.counted) + len(self.late)


@dataclass(frozen=True)
class Applying:
    """A round is closed and its mean is being applied."""

    round: int


@dataclass(frozen=True)
class Finished:
    """The run is over."""


Phase = Waiting | Collecting | Applying | Finished


@dataclass(frozen=True)
class Schedule:
    """`rounds` rounds to close in all, neurons chosen every `resync_every`, the others as in `RunConfig`.

    With `trial_round` neurons are also chosen once the first round is closed. `buffer_goal` is None in a synchronous
    run.
    """

    rounds: int
    resync_every: int
    min_devices: int
    round_seconds: float
    quorum: int = 1
    give_up: bool = False
    participation: float = 1.0
    participation_seed: int = 0
    buffer_goal: int | None = None
    trial_round: bool = False

    def __post_init__(self) -> None:
        require(self.rounds >= 0, "rounds", self.rounds, "at least 0")
        require(self.resync_every >= 1, "resync_every", self.resync_every, "at least 1")
        require(self.min_devices >= 1, "min_devices", self.min_devices, "at least 1")
        require(self.round_seconds > 0, "round_seconds", self.round_seconds, "above 0")
        require(self.quorum >= 1, "quorum", self.quorum, "at least 1")
        require(0 < self.participation <= 1, "participation", self.participation, "above 0 and at most 1")
        if self.buffer_goal is not None:
            require(self.buffer_goal >= 1, "buffer_goal", self.buffer_goal, "at least 1")

    def drawn(self, number: int, devices: frozenset[str]) -> frozenset[str]:
        """Those of `devices` who take part in round `number`."""
        if self.participation == 1:
            return devices
        rate, seed = self.participation, self.participation_seed
        return frozenset(device for device in devices if takes_part(rate, seed, number, device))


@dataclass(frozen=True)
class State:
    """Where a run stands: `next_round` is the number the next round gets, `closed` how many are closed.

    `since_resync` rounds were opened from `resync_round` on; `refused` were refused in the rounds given up since one
    was closed.
    """

    schedule: Schedule
    phase: Phase
    next_round: int
    closed: int
    resync_round: int | None = None
    online: frozenset[str] = frozenset()
    since_resync: int = 0
    refused: frozenset[str] = frozenset()

    @property
    def draws_too_few(self) -> bool:
        """Whether, after a `Tick`, no round is open only as no number tried so far draws enough of those online."""
        return isinstance(self.phase, Waiting) and len(self.online) >= self.phase.needed


@dataclass(frozen=True)
class Past:
    """What another process left: rounds `closed`, the last resync, rounds opened from there on, who is presumed online,
    and a round still open.
    """

    closed: int = 0
    resync_round: int | None = None
    since_resync: int = 0
    online: frozenset[str] = frozenset()
    open_round: Collecting | None = None


NEW_RUN = Past()


def begin(schedule: Schedule, next_round: int = 1, past: Past = NEW_RUN) -> State:
    """The state of a process that has just started; `next_round` was never opened before."""
    require(next_round > past.closed, "next_round", next_round, f"above the {past.closed} closed rounds")
    phase = past.open_round or Waiting(schedule.min_devices)
    return State(schedule, phase, next_round, past.closed, past.resync_round, past.online, past.since_resync)


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """The next state, and what the shell must do; only `Tick` gives commands."""
    match event:
        case DeviceOnline(device):
            return replace(state, online=state.online | {device}), ()
        case DeviceOffline(device):
            return replace(state, online=state.online - {device}), ()
        case UpdateCounted(device, number) | UpdateRefused(device, number):
            return _heard(state, event, device, number), ()
        case RoundApplied(number):
            if state.phase != Applying(number):
                return state, ()
            return replace(state, phase=Waiting(needed=1), closed=state.closed + 1), ()
        case Tick(now):
            return _decide(state, now)


def _heard(state: State, event: Event, device: str, number: int) -> State:
    phase = state.phase
    if not isinstance(phase, Collecting) or number > phase.round:
        return state
    if number < phase.round:
        return _heard_late(state, phase, event, device, number)
    if isinstance(event, UpdateCounted):
        return replace(state, phase=replace(phase, counted=phase.counted | {device}))
    return replace(state, phase=replace(phase, refused=phase.refused | {device}))


def _heard_late(state: State, phase: Collecting, event: Event, device: str, number: int) -> State:
    if state.schedule.buffer_goal is None or not isinstance(event, UpdateCounted):
        return state
    return replace(state, phase=replace(phase, late=phase.late | {(number, device)}))


def _decide(state: State, now: float) -> tuple[State, tuple[Command, ...]]:
    match state.phase:
        case Waiting() if state.closed >= state.schedule.rounds:
            return replace(state, phase=Finished()), (Finish(),)
        case Waiting(needed) if len(state.online) >= needed:
            return _open(state, now)
        case Collecting(number, deadline) as phase if _nobody_can(phase, state) and (
            now >= deadline or (state.schedule.give_up and phase.refused)
        ):
            return _forget(state, phase)
        case Collecting(number, deadline) as phase if now >= deadline and phase.updates < state.schedule.quorum:
            later = now + state.schedule.round_seconds
            return replace(state, phase=replace(phase, deadline=later)), (ExtendRound(number, later),)
        case Collecting(number, deadline) as phase if now >= deadline or _is_due(phase, state):
            return replace(state, phase=Applying(number), refused=frozenset()), (CloseRound(number),)
    return state, ()


def _forget(state: State, phase: Collecting) -> tuple[State, tuple[Command, ...]]:
    refused = state.refused | phase.refused
    if state.schedule.give_up and phase.refused and state.online <= refused:
        return replace(state, phase=Finished()), (GiveUp(phase.round),)
    return replace(state, phase=Waiting(needed=1), refused=refused), (AbandonRound(phase.round),)


def _nobody_can(phase: Collecting, state: State) -> bool:
    if not state.online or phase.updates:
        return False
    return state.schedule.drawn(phase.round, state.online) <= phase.refused


def _is_due(phase: Collecting, state: State) -> bool:
    goal = state.schedule.buffer_goal
    full = goal is not None and phase.updates >= goal
    all_heard = phase.expected & state.online <= phase.counted | phase.refused
    return phase.updates >= state.schedule.quorum and (full or all_heard)


def _open(state: State, now: float) -> tuple[State, tuple[Command, ...]]:
    number, expected = _next_drawing(state)
    if not expected:
        return replace(state, next_round=number), ()
    chosen, since = state.resync_round, state.since_resync
    after_trial = state.schedule.trial_round and state.closed == 1
    if chosen is None or since >= state.schedule.resync_every or after_trial:
        chosen, since = number, 0
    deadline = now + state.schedule.round_seconds
    phase = Collecting(number, deadline, expected)
    opened = replace(state, phase=phase, next_round=number + 1, resync_round=chosen, since_resync=since + 1)
    return opened, (OpenRound(number, chosen, deadline),)


def _next_drawing(state: State) -> tuple[int, frozenset[str]]:
    """The first number that draws enough devices and whom it draws; nobody where many numbers were tried in vain."""
    enough = min(state.schedule.quorum, len(state.online))
    end = state.next_round + max(1, _DRAWS_TRIED // len(state.online))
    for number in range(state.next_round, end):
        drawn = state.schedule.drawn(number, state.online)
        if len(drawn) >= enough:
            return number, drawn
    return end, frozenset()

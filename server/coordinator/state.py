"""Where a run stands, for the round state machine: phase, schedule, and what outlives a round. Frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from wire_protocol.errors import require
from wire_protocol.participation import takes_part


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
    was closed. `paused`, `stopping` and `resync_due` are orders that hold.
    """

    schedule: Schedule
    phase: Phase
    next_round: int
    closed: int
    resync_round: int | None = None
    online: frozenset[str] = frozenset()
    since_resync: int = 0
    refused: frozenset[str] = frozenset()
    paused: bool = False
    stopping: bool = False
    resync_due: bool = False

    @property
    def is_over(self) -> bool:
        """Whether no further round is to be opened, ever."""
        return self.stopping or self.closed >= self.schedule.rounds

    @property
    def may_open(self) -> bool:
        """Whether a round opens as soon as it is the run's turn and a number draws enough of those online."""
        phase = self.phase
        enough = isinstance(phase, Waiting) and len(self.online) >= phase.needed
        return enough and not self.paused and not self.is_over


@dataclass(frozen=True)
class Past:
    """What another process left: rounds `closed`, the last resync, rounds opened from there on, who is presumed online,
    a round still open, and orders that hold.
    """

    closed: int = 0
    resync_round: int | None = None
    since_resync: int = 0
    online: frozenset[str] = frozenset()
    open_round: Collecting | None = None
    paused: bool = False
    resync_due: bool = False


NEW_RUN = Past()


def begin(schedule: Schedule, next_round: int = 1, past: Past = NEW_RUN) -> State:
    """The state of a process that has just started; `next_round` was never opened before."""
    require(next_round > past.closed, "next_round", next_round, f"above the {past.closed} closed rounds")
    return State(
        schedule,
        past.open_round or Waiting(schedule.min_devices),
        next_round,
        past.closed,
        past.resync_round,
        past.online,
        past.since_resync,
        paused=past.paused,
        resync_due=past.resync_due,
    )

"""What can happen to a device's round, and what its state machine can ask for: frozen values, no I/O.

Every event carries the moment it happened: `now` in seconds of a clock that never goes back, and `jitter`, a draw
from [0, 1) that spreads what follows from it over time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wire_protocol.messages import RoundPlan, Slice
from wire_protocol.sub_model import SubModel


@dataclass(frozen=True)
class Selection:
    """The neurons chosen at `resync_round` of a run, on one bundle, as sent in the update of `round`.

    `private`: chosen as a private run wants it, so that they may be told in one.
    """

    run: str
    bundle: str
    resync_round: int
    round: int
    sub_model: SubModel = field(compare=False)
    private: bool = False

    @property
    def age(self) -> tuple[int, int]:
        """Grows with the rounds of a run."""
        return self.resync_round, self.round

    def serves(self, plan: RoundPlan) -> bool:
        """Whether a round by this plan trains these neurons."""
        ours = (self.run, self.bundle, self.resync_round)
        may_be_told = self.private or plan.privacy is None
        return not plan.resync and may_be_told and ours == (plan.run, plan.bundle, plan.resync_round)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Parent of all events."""

    now: float
    jitter: float = 0.5


@dataclass(frozen=True, kw_only=True)
class RoundEvent(Event):
    """Parent of events that belong to one round; they mean nothing in another."""

    run: str
    round: int


@dataclass(frozen=True, kw_only=True)
class Tick(Event):
    """Time has passed."""


@dataclass(frozen=True, kw_only=True)
class PlanArrived(Event):
    """A plan came, again or for the first time; `remaining` is the time in seconds until its deadline.

    `drawn` says whether this device takes part in its round.
    """

    plan: RoundPlan
    remaining: float
    drawn: bool = True


@dataclass(frozen=True, kw_only=True)
class SliceArrived(Event):
    """A whole slice came."""

    content: Slice


@dataclass(frozen=True, kw_only=True)
class UpdateAccepted(Event):
    """The server has counted an update of these neurons."""

    selection: Selection


@dataclass(frozen=True, kw_only=True)
class SliceRefused(RoundEvent):
    """The slice that training began with does not hold the values of the neurons kept."""


@dataclass(frozen=True, kw_only=True)
class ModelFetched(RoundEvent):
    """The bundle's files and the model are on disk."""


@dataclass(frozen=True, kw_only=True)
class FetchFailed(RoundEvent):
    """They could not be had, after several tries, or there is no room for what comes of them."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Answered(RoundEvent):
    """`payload` is sealed: an update of the neurons in `selection`, or, without one, a word that there is none."""

    payload: bytes = field(repr=False)
    selection: Selection | None


@dataclass(frozen=True, kw_only=True)
class Stored(RoundEvent):
    """The payload is in the outbox."""


@dataclass(frozen=True, kw_only=True)
class StoreFailed(RoundEvent):
    """The payload could not be put there; that may pass."""


@dataclass(frozen=True, kw_only=True)
class Settled(RoundEvent):
    """The payload has left the outbox: it was answered, or lost."""


@dataclass(frozen=True)
class Command:
    """Parent of all commands; each belongs to the round of `plan`."""

    plan: RoundPlan


@dataclass(frozen=True)
class Begin(Command):
    """A round begins (for whoever reports)."""


@dataclass(frozen=True)
class GiveUp(Command):
    """End what is going on for this round, as nothing will be sent for it; `reason` is for whoever reports."""

    reason: str


@dataclass(frozen=True)
class ExpectSlice(Command):
    """Answer with `SliceArrived` when the slice comes, at once if it is already here."""


@dataclass(frozen=True)
class Fetch(Command):
    """Fetch bundle and model; answer `ModelFetched`, `FetchFailed` or `Answered`.

    Without `selection`, neurons will be scored.
    """

    selection: Selection | None


@dataclass(frozen=True)
class Train(Command):
    """Train from `content`, or from the fetched model; answer `Answered`, `SliceRefused` or `FetchFailed`.

    Without `selection`, choose neurons first.
    """

    selection: Selection | None
    content: Slice | None = None


@dataclass(frozen=True)
class Store(Command):
    """Put the payload in the outbox; answer `Stored` or `StoreFailed`."""

    payload: bytes = field(repr=False)
    selection: Selection | None

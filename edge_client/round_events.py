"""What can happen to a device's round, and what its state machine can ask for: frozen values, no I/O.

Every event carries the moment it happened: `now` in seconds of a clock that never goes back, and `jitter`, a draw
from [0, 1) that spreads what follows from it over time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wire_protocol.messages import DeclineCause, Need, Receipt, RoundPlan, Slice
from wire_protocol.sub_model import SubModel


@dataclass(frozen=True)
class Selection:
    """The neurons chosen at `resync_round` of a run, on one bundle."""

    run: str
    bundle: str
    resync_round: int
    sub_model: SubModel = field(compare=False)

    def serves(self, plan: RoundPlan) -> bool:
        """Whether a round by this plan trains these neurons."""
        ours = (self.run, self.bundle, self.resync_round)
        return not plan.resync and ours == (plan.run, plan.bundle, plan.resync_round)


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
class Connected(Event):
    """The link to the broker is up and subscribed."""


@dataclass(frozen=True, kw_only=True)
class Disconnected(Event):
    """The link to the broker is lost."""


@dataclass(frozen=True, kw_only=True)
class Tick(Event):
    """Time has passed."""


@dataclass(frozen=True, kw_only=True)
class PlanArrived(Event):
    """A plan came, again or for the first time; `remaining` is the time in seconds until its deadline."""

    plan: RoundPlan
    remaining: float


@dataclass(frozen=True, kw_only=True)
class SliceArrived(Event):
    """A whole slice came."""

    content: Slice


@dataclass(frozen=True, kw_only=True)
class SliceRefused(RoundEvent):
    """The slice that training began with does not hold the values of the neurons kept."""


@dataclass(frozen=True, kw_only=True)
class ModelFetched(RoundEvent):
    """The bundle's files and the model are on disk."""


@dataclass(frozen=True, kw_only=True)
class FetchFailed(RoundEvent):
    """They could not be had, after several tries."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Trained(RoundEvent):
    """`payload` is an encoded update of the neurons in `selection`."""

    payload: bytes
    selection: Selection


@dataclass(frozen=True, kw_only=True)
class TrainingFailed(RoundEvent):
    """There will be no update in this round; the server is told only of the `cause`."""

    cause: DeclineCause


@dataclass(frozen=True, kw_only=True)
class Transmitted(RoundEvent):
    """The last thing asked to be sent has left, or was lost with the link."""


@dataclass(frozen=True, kw_only=True)
class ReceiptArrived(Event):
    """The server's word on an update."""

    receipt: Receipt


@dataclass(frozen=True, kw_only=True)
class NeedArrived(Event):
    """The server lacks chunks of an update."""

    need: Need


@dataclass(frozen=True)
class Command:
    """Parent of all commands; each belongs to the round of `plan`."""

    plan: RoundPlan


@dataclass(frozen=True)
class Begin(Command):
    """A round begins (for whoever reports)."""


@dataclass(frozen=True)
class End(Command):
    """The round is over for this device: its update was `accepted`, or not and why (for whoever reports)."""

    accepted: bool
    reason: str = ""


@dataclass(frozen=True)
class ExpectSlice(Command):
    """Answer with `SliceArrived` when the slice comes, at once if it is already here."""


@dataclass(frozen=True)
class Fetch(Command):
    """Fetch bundle and model; answer `ModelFetched` or `FetchFailed`. Without `selection`, neurons will be scored."""

    selection: Selection | None


@dataclass(frozen=True)
class Train(Command):
    """Train from `content`, or from the fetched model; answer `Trained`, `SliceRefused` or `TrainingFailed`.

    Without `selection`, choose neurons first.
    """

    selection: Selection | None
    content: Slice | None = None


@dataclass(frozen=True)
class Send(Command):
    """Send the manifest of `payload` (where `announce`), then these chunks of it; answer `Transmitted`."""

    payload: bytes = field(repr=False)
    announce: bool
    chunks: tuple[int, ...]

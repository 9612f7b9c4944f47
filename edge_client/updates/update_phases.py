"""Where a device stands with updates of itself, what can happen to it, and what it asks for: frozen values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_client.round_events import Event
from edge_client.updates.choice import Choice
from wire_protocol.releases import Release, ReleaseStatus


@dataclass(frozen=True)
class Offered:
    """The release of an offer that is for this machine, and the offer's attempt."""

    release: Release
    attempt: int


@dataclass(frozen=True)
class Outcome:
    """What a device says of an offer; `reason` is for people."""

    version: str = ""
    attempt: int = 0
    status: ReleaseStatus = "none"
    reason: str = ""


@dataclass(frozen=True)
class Known:
    """What holds in every phase: the versions of the package's own code and of what runs, what the next start is told,
    the newest offer, whether a round is under way, what became of the last offer, and when the process began.
    """

    own: str
    running: str
    choice: Choice
    offered: Offered | None = None
    busy: bool = False
    outcome: Outcome = field(default_factory=Outcome)
    began: float = 0.0


@dataclass(frozen=True)
class Phase:
    """Parent of all phases."""

    known: Known


@dataclass(frozen=True)
class Resting(Phase):
    """Nothing is to be done."""


@dataclass(frozen=True)
class Pending(Phase):
    """Parent of the phases in which `wanted` is on its way; `failures` steps have failed."""

    wanted: Offered
    failures: int = 0


@dataclass(frozen=True)
class Fetching(Pending):
    """The archive is on its way."""


@dataclass(frozen=True)
class Delayed(Pending):
    """Waiting, until `due` and until no round is under way, to fetch again."""

    due: float = 0.0


@dataclass(frozen=True)
class Unpacking(Pending):
    """The archive becomes a folder."""


@dataclass(frozen=True)
class Ready(Pending):
    """On disk; waiting, until `due` and until no round is under way, to be told to the next start."""

    due: float = 0.0


@dataclass(frozen=True)
class Switching(Pending):
    """The next start is being told."""


@dataclass(frozen=True)
class Leaving(Phase):
    """The process ends as soon as no round is under way."""


@dataclass(frozen=True)
class Proving(Phase):
    """What runs is on trial, without a round since `idle`; linked since `changed`, or not, since then.

    `counted`: the server counted an update of it.
    """

    idle: float
    changed: float
    linked: bool = False
    counted: bool = False


@dataclass(frozen=True)
class Confirming(Phase):
    """What was on trial has proven itself; that is being written down, again at `due` where it failed."""

    due: float | None = None


@dataclass(frozen=True, kw_only=True)
class OfferCame(Event):
    """An offer came, or (None) there is none any more."""

    offered: Offered | None


@dataclass(frozen=True, kw_only=True)
class NoneFits(Event):
    """An offer came that has nothing for this machine, or is not to be believed."""

    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Fetched(Event):
    """The archive is on disk, whole."""


@dataclass(frozen=True, kw_only=True)
class NotNow(Event):
    """The step at hand could not be done; that may pass."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Illegal(Event):
    """The archive is not what its signed words say."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Unpacked(Event):
    """The release is a folder, on disk."""


@dataclass(frozen=True, kw_only=True)
class Written(Event):
    """The choice is on disk."""

    choice: Choice


@dataclass(frozen=True, kw_only=True)
class LinkChanged(Event):
    """The link to the broker went up or down."""

    up: bool


@dataclass(frozen=True, kw_only=True)
class RoundChanged(Event):
    """A round began, or the last one ended."""

    busy: bool


@dataclass(frozen=True, kw_only=True)
class RoundCounted(Event):
    """The server counted an update."""


@dataclass(frozen=True, kw_only=True)
class FaultSeen(Event):
    """The client failed in a way that nobody foresaw."""


@dataclass(frozen=True)
class Fetch:
    """Fetch the archive; answer `Fetched` or `NotNow`."""

    release: Release


@dataclass(frozen=True)
class StopFetching:
    """End the fetching at hand, without an answer; what came of the archive stays."""


@dataclass(frozen=True)
class Unpack:
    """Unpack the archive; answer `Unpacked`, `Illegal` or `NotNow`."""

    release: Release


@dataclass(frozen=True)
class Write:
    """Write a choice down; answer `Written` or `NotNow`."""

    choice: Choice


@dataclass(frozen=True)
class Leave:
    """End the process so that it is started again; `reason` is for whoever reports."""

    reason: str


Command = Fetch | StopFetching | Unpack | Write | Leave

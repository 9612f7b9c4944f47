"""Where a device stands in its round: one frozen class for each phase. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_client.round_events import Selection
from wire_protocol.messages import Manifest, RoundPlan


@dataclass(frozen=True)
class Memory:
    """What outlives a round: the link, the neurons of the last accepted update, the newest round begun of each run."""

    connected: bool = False
    selection: Selection | None = None
    newest: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A plan being carried out; `expires` is its deadline on the clock of events."""

    plan: RoundPlan
    expires: float


@dataclass(frozen=True)
class Idle:
    """Waiting for a plan."""

    memory: Memory = field(default_factory=Memory)


@dataclass(frozen=True)
class Busy:
    """Parent of the phases of a round."""

    memory: Memory
    task: Task


@dataclass(frozen=True)
class AwaitingSlice(Busy):
    """Waiting, until `due`, for the values of the neurons kept."""

    selection: Selection
    due: float


@dataclass(frozen=True)
class Fetching(Busy):
    """Bundle and model are on their way; `failures` fetches have failed. `selection` None: neurons will be scored."""

    selection: Selection | None
    failures: int = 0


@dataclass(frozen=True)
class FetchDelayed(Busy):
    """Waiting, until `due`, to fetch again."""

    selection: Selection | None
    failures: int
    due: float


@dataclass(frozen=True)
class Training(Busy):
    """Training; a result for another round than the task's is dropped."""

    selection: Selection | None


@dataclass(frozen=True)
class Sending(Busy):
    """The update, or that there is none (`selection` is None), is sent until a receipt for it comes.

    `begun` says whether its chunks were sent once; `repeats` counts announcements since the server was last heard;
    `due` is when to announce again, None while something is being sent or the link is down.
    """

    selection: Selection | None
    payload: bytes = field(repr=False)
    manifest: Manifest
    begun: bool = False
    repeats: int = 0
    due: float | None = None


Phase = Idle | AwaitingSlice | Fetching | FetchDelayed | Training | Sending


def due(phase: Phase) -> float | None:
    """When the machine wants a `Tick` if nothing else happens, on the clock of events."""
    return phase.due if isinstance(phase, AwaitingSlice | FetchDelayed | Sending) else None

"""Where a device stands in its round: one frozen class for each phase. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edge_client.round_events import Selection
from wire_protocol.messages import RoundPlan

MAX_RUNS_REMEMBERED = 64
MAX_SELECTIONS = 4
"""Runs that may take turns without one of them choosing its neurons afresh."""


@dataclass(frozen=True)
class Memory:
    """What outlives a round, by run: the neurons of the last update made, and the newest round begun."""

    selections: Mapping[str, Selection] = field(default_factory=dict)
    newest: Mapping[str, int] = field(default_factory=dict)

    def with_round(self, run: str, number: int) -> Memory:
        """Memory that this round was begun; of many runs the one begun longest ago is forgotten."""
        others = [(name, newest) for name, newest in self.newest.items() if name != run]
        newest = max(number, self.newest.get(run, 0))
        return replace(self, newest=dict([*others[1 - MAX_RUNS_REMEMBERED :], (run, newest)]))

    def before_round(self, run: str, number: int) -> Memory:
        """Memory as if this round was not begun: should its plan come again, it begins anew."""
        return replace(self, newest={**self.newest, run: number - 1})

    def with_selection(self, selection: Selection) -> Memory:
        """Memory of an update of these neurons; receipts that come late bring nothing older back.

        Of many runs the one whose neurons were used longest ago is forgotten.
        """
        old = self.selections.get(selection.run)
        if old is not None and old.age > selection.age:
            return self
        others = [(run, known) for run, known in self.selections.items() if run != selection.run]
        return replace(self, selections=dict([*others[1 - MAX_SELECTIONS :], (selection.run, selection)]))


@dataclass(frozen=True)
class Task:
    """A plan being carried out; `expires` is its deadline on the clock of events.

    `following` is a newer plan, to be carried out after this one: updates by this one still count.
    """

    plan: RoundPlan
    expires: float
    following: Task | None = None


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
class Storing(Busy):
    """The sealed payload is on its way to the outbox; `failures` times there was no room."""

    payload: bytes = field(repr=False)
    selection: Selection | None
    failures: int = 0


@dataclass(frozen=True)
class StoreDelayed(Busy):
    """Waiting, until `due`, for room in the outbox."""

    payload: bytes = field(repr=False)
    selection: Selection | None
    failures: int
    due: float


@dataclass(frozen=True)
class Delivering(Busy):
    """The payload waits in the outbox for its receipt, and the device for a model that knows of it."""


Phase = Idle | AwaitingSlice | Fetching | FetchDelayed | Training | Storing | StoreDelayed | Delivering


def due(phase: Phase) -> float | None:
    """When the machine wants a `Tick` if nothing else happens, on the clock of events."""
    return phase.due if isinstance(phase, AwaitingSlice | FetchDelayed | StoreDelayed) else None

"""The life of a run: which order it takes in which status, and the status after it.

    created --start--> running <--pause, resume--> paused
    running --all rounds closed--> finished        created, running, paused --stop--> stopped
    running, paused --it cannot go on--> failed --resume--> running, --stop--> stopped

`finished` and `stopped` are final.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from server.errors import ConflictError

RunStatus = Literal["created", "running", "paused", "finished", "stopped", "failed"]
Order = Literal["start", "pause", "resume", "stop", "resync", "roll back", "hold out"]

ACTIVE: tuple[RunStatus, ...] = ("running", "paused")
"""A service has these at hand: their updates count and their rounds go on."""
FINAL: tuple[RunStatus, ...] = ("finished", "stopped")
"""No update of these counts any more."""

AFTER: Mapping[Order, Mapping[RunStatus, RunStatus]] = {
    "start": {"created": "running"},
    "pause": {"running": "paused"},
    "resume": {"paused": "running", "failed": "running"},
    "stop": {"created": "stopped", "running": "stopped", "paused": "stopped", "failed": "stopped"},
    "resync": {"running": "running", "paused": "paused"},
    "roll back": {"running": "running", "paused": "paused"},
    "hold out": {"created": "created"},
}
"""The status after an order; one that is not here is refused."""


def status_after(order: Order, run: str, status: RunStatus) -> RunStatus:
    """The status of a run after an order; raises `ConflictError` where it does not take it."""
    after = AFTER[order].get(status)
    if after is None:
        raise ConflictError(f"run {run} is {status}: {order} takes a run that is {' or '.join(AFTER[order])}")
    return after

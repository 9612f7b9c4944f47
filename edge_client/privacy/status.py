"""What a ledger says beside the owner's cap, as `fisherfleet-edge privacy status` prints it. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from math import isfinite
from typing import Any

from edge_client.privacy.account import Account, Unit
from edge_client.privacy.cap import Cap
from edge_client.privacy.charges import Book, Charge, Entry

_HIDDEN: dict[Unit, str] = {
    "record": "whether any one example is here",
    "device": "whether all of this device's examples are here",
}


@dataclass(frozen=True)
class RunStatus:
    """One run; `epsilon` is what it would have spent alone, at the cap's delta."""

    run: str
    charges: int
    last_round: int
    epsilon: float


@dataclass(frozen=True)
class Status:
    """`account` is what all runs have spent together; `count` is the last entry's number, `last` the entry."""

    cap: Cap
    account: Account
    count: int
    head: bytes
    last: Entry | None
    runs: tuple[RunStatus, ...]
    lost: bool

    @property
    def epsilon(self) -> float:
        """What is spent, at the cap's delta."""
        return self.account.epsilon(self.cap.delta)

    @property
    def left(self) -> float:
        """Epsilon between what is spent and the cap; the next charges may cost less than they would alone."""
        return max(0.0, self.cap.epsilon - self.epsilon)


def status_of(book: Book, cap: Cap) -> Status:
    """What was spent, in all and by run."""
    runs = tuple(
        RunStatus(run, total.entries, total.last_round, total.add_to(Account()).epsilon(cap.delta))
        for run, total in sorted(book.runs.items())
    )
    return Status(cap, book.account(), book.count, book.head, book.last, runs, lost=book.known_from > 0)


def as_json(status: Status) -> dict[str, Any]:
    """All figures; an epsilon without bound is null."""
    charge = _last_charge(status)
    return {
        "epsilon": _finite(status.epsilon),
        "delta": status.cap.delta,
        "unit": status.account.unit,
        "epsilon_allowed": status.cap.epsilon,
        "epsilon_left": status.left,
        "public_size": status.cap.public_size,
        "count": status.count,
        "head": status.head.hex(),
        "charges_lost": status.lost,
        "last": None if status.last is None else {
            "time": status.last.time,
            "run": charge and charge.run,
            "round": charge and charge.round,
            "purpose": "reset" if charge is None else charge.purpose,
        },
        "runs": [
            {"run": one.run, "charges": one.charges, "last_round": one.last_round, "epsilon": _finite(one.epsilon)}
            for one in status.runs
        ],
    }  # fmt: skip


def as_table(status: Status) -> str:
    """The same for people."""
    cap = status.cap
    lines = [f"spent: epsilon {status.epsilon:.4g} of {cap.epsilon:g} at delta {cap.delta:g}, {status.left:.4g} left"]
    if status.account.unit is not None:
        lines.append(f"hidden is {_HIDDEN[status.account.unit]}")
    lines.append(f"entries: {status.count}" + _last_words(status))
    if status.lost:
        lines.append("charges were lost, and the owner has accepted it: more may be spent than is said here")
    if status.runs:
        wide = max(3, *(len(one.run) for one in status.runs))
        lines += ["", f"{'run':<{wide}}  charges  last round  epsilon alone"]
        lines += [
            f"{one.run:<{wide}}  {one.charges:>7}  {one.last_round:>10}  {one.epsilon:>13.4g}" for one in status.runs
        ]
    return "\n".join(lines) + "\n"


def _last_words(status: Status) -> str:
    if status.last is None:
        return ""
    charge, moment = _last_charge(status), status.last.time
    what = "reset by the owner" if charge is None else f"{charge.purpose} of run {charge.run}, round {charge.round}"
    return f", the last {_when(moment)}: {what}"


def _when(moment: float | None) -> str:
    if moment is None:
        return "at an unknown time"
    try:
        return f"{datetime.fromtimestamp(moment, timezone.utc):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"


def _last_charge(status: Status) -> Charge | None:
    return None if status.last is None else status.last.charge


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None

"""What a running device tells who asks on its own machine (`status_socket`), and how that reads. No I/O."""

from __future__ import annotations

from datetime import datetime

import msgspec

from edge_client.card_wear import Written
from wire_protocol.device_state import DeviceState


class Status(msgspec.Struct, frozen=True):
    """`said` is what the server was told last; `started` is Unix time; `trouble` says why there was no link last.

    `runtime` is what trained last, as "portable/cuda" on a GPU that passed its check; `last` what came of the round
    whose answer the server had last, "" where there was none yet. A field that comes later has a default: who asks may
    be of another release than who answers.
    """

    device: str
    broker: str
    started: float
    said: DeviceState
    runtime: str
    linked: bool
    trouble: str
    doing: str
    last: str
    written: Written


class Waiting(msgspec.Struct, frozen=True):
    """What waits on disk for the server: how many updates, of so many bytes."""

    updates: int
    size: int


class Report(msgspec.Struct, frozen=True):
    """All of it, as `--json` prints it; `running` is None where no device process answers.

    `answered` is the newest round of each run that has an answer; `epsilon` what private runs have spent, None where
    the ledger is refused.
    """

    device: str
    running: Status | None
    waiting: Waiting
    answered: dict[str, int]
    epsilon: float | None
    epsilon_allowed: float


def describe(report: Report) -> str:
    """The report as text, a line for each thing."""
    lines = [("device", _running(report))]
    running = report.running
    if running is not None:
        lines.append(("link", f"connected to {running.broker}" if running.linked else _no_link(running)))
        lines.append(("now", running.doing))
        if running.last:
            lines.append(("last", running.last))
        lines.append(("written", _written(running.written)))
    for run, number in report.answered.items():
        lines.append(("answered", f"run {run} up to round {number}"))
    waiting = report.waiting
    lines.append(("waiting", f"{waiting.updates} update(s) to be sent, {waiting.size / 1e6:.1f} MB"))
    lines.append(("privacy", _privacy(report)))
    width = max(len(name) for name, _ in lines)
    return "".join(f"{name:<{width}}  {text}\n" for name, text in lines)


def _running(report: Report) -> str:
    running = report.running
    if running is None:
        return f"{report.device} does not run"
    since = datetime.fromtimestamp(running.started).astimezone()
    return f"{report.device} runs since {since:%Y-%m-%d %H:%M}, {running.said.client}, {running.runtime}"


def _no_link(running: Status) -> str:
    return f"no link to {running.broker}" + (f": {running.trouble}" if running.trouble else "")


def _written(written: Written) -> str:
    """What its start has cost the card so far."""
    kinds = ", ".join(f"{kind} {count / 1e6:.2f}" for kind, count in written.by_kind.items()) or "nothing"
    pages = "" if written.kernel is None else f"; {written.kernel / 1e6:.2f} MB in pages, by the kernel's count"
    return f"{kinds} MB since its start{pages}"


def _privacy(report: Report) -> str:
    if report.epsilon is None:
        return "the ledger is refused: fisherfleet-edge privacy status says why"
    return f"epsilon {report.epsilon:.4g} of {report.epsilon_allowed:g} spent"

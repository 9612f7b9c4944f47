"""What an operator must know without looking: rules on what is seen of a run. Sans-I/O.

- silence: no update was counted for `silent_rounds` times a round's time, though the run goes on.
- divergence: the loss of the newest model is not a number, or more than `diverged` times the best so far.
- budget: a private run has spent at least `spent_share` of the epsilon that it plans.
- queue: what waits to be done grows: in each of the last `QUEUE_WINDOWS` spans of a round's time its least level was
  above that of the span before. A queue that is long and stays so is a busy server, not a failing one.

An alert is raised once and stands until its cause is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Literal

from wire_protocol.errors import require

AlertKind = Literal["silence", "divergence", "budget", "queue"]
QUEUE_WINDOWS = 3


@dataclass(frozen=True)
class AlertRules:
    """Limits: rounds of silence and times of the best loss, above 1, and a share of epsilon in (0, 1]."""

    silent_rounds: float = 3.0
    diverged: float = 3.0
    spent_share: float = 0.9

    def __post_init__(self) -> None:
        for name in ("silent_rounds", "diverged"):
            times = getattr(self, name)
            require(times > 1 and isfinite(times), name, times, "above 1 and finite")
        require(0 < self.spent_share <= 1, "spent_share", self.spent_share, "above 0 and at most 1")


@dataclass(frozen=True)
class Seen:
    """What is seen of a run at `now`, in seconds of a clock that never jumps.

    `heard` is when an update was last counted, or the run began to wait for one; None while it waits for none (it is
    paused or over). `loss` is the newest model's, None without any, `best_loss` the least so far. `epsilon_spent` and
    `epsilon_planned` are 0 in a run that is not private. `waiting` counts what waits to be done.
    """

    now: float
    round_seconds: float
    heard: float | None = None
    loss: float | None = None
    best_loss: float = inf
    epsilon_spent: float = 0.0
    epsilon_planned: float = 0.0
    waiting: int = 0


@dataclass(frozen=True)
class Queue:
    """`lows` are the least levels of the last spans, the newest last; the one that goes on `began` then."""

    began: float | None = None
    low: int = 0
    lows: tuple[int, ...] = ()

    def at(self, now: float, waiting: int, span: float) -> Queue:
        """The queue once `waiting` was seen."""
        if self.began is None:
            return Queue(now, waiting)
        low = min(self.low, waiting)
        if now - self.began < span:
            return replace(self, low=low)
        return Queue(now, waiting, (*self.lows, low)[-(QUEUE_WINDOWS + 1) :])

    @property
    def grows(self) -> bool:
        """Whether each of the last spans was above the one before."""
        pairs = zip(self.lows, self.lows[1:], strict=False)
        return len(self.lows) > QUEUE_WINDOWS and all(before < after for before, after in pairs)


@dataclass(frozen=True)
class Alerts:
    """`standing` has the alerts that stand, in words."""

    standing: Mapping[AlertKind, str] = field(default_factory=dict)
    queue: Queue = field(default_factory=Queue)


def step(alerts: Alerts, rules: AlertRules, seen: Seen) -> tuple[Alerts, dict[AlertKind, str]]:
    """The alerts after what is seen, and those that are new."""
    queue = alerts.queue.at(seen.now, seen.waiting, seen.round_seconds)
    causes: dict[AlertKind, str] = {
        "silence": _silence(rules, seen),
        "divergence": _divergence(rules, seen),
        "budget": _budget(rules, seen),
        "queue": f"what waits to be done grows: {', '.join(map(str, queue.lows))} items" if queue.grows else "",
    }
    standing = {kind: alerts.standing.get(kind, text) for kind, text in causes.items() if text}
    return Alerts(standing, queue), {kind: text for kind, text in standing.items() if kind not in alerts.standing}


def _silence(rules: AlertRules, seen: Seen) -> str:
    if seen.heard is None or seen.now - seen.heard < rules.silent_rounds * seen.round_seconds:
        return ""
    return f"no update was counted for {seen.now - seen.heard:.0f} s; a round takes {seen.round_seconds:g} s at most"


def _divergence(rules: AlertRules, seen: Seen) -> str:
    if seen.loss is None or seen.loss <= rules.diverged * seen.best_loss:
        return ""
    return f"the loss is {seen.loss:.4g}, the best was {seen.best_loss:.4g}"


def _budget(rules: AlertRules, seen: Seen) -> str:
    if seen.epsilon_planned <= 0 or seen.epsilon_spent < rules.spent_share * seen.epsilon_planned:
        return ""
    return f"epsilon {seen.epsilon_spent:.3g} of the {seen.epsilon_planned:.3g} planned is spent"

"""Watches one run: counts what happens to its updates and rounds, and raises alerts, in metrics, events and the log.

Every call returns at once; epsilon, which takes a second or two, is computed in a thread of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf

from server.alerts import AlertRules, Alerts, Seen, step
from server.config import RunConfig
from server.event_log import EventLog
from server.metrics import Metrics
from server.privacy.run_words import epsilon_after
from server.records import RoundRecord

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


class RunWatch:
    """Of the run `config`, of which `closed` rounds are behind it. `clock` gives seconds and never goes back."""

    def __init__(
        self, config: RunConfig, metrics: Metrics, events: EventLog, clock: Callable[[], float], closed: int = 0
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._events = events
        self._clock = clock
        self._alerts = Alerts()
        self._rules = AlertRules()
        self._closed = closed
        self._heard = clock()
        self._looked = -inf
        self._loss: float | None = None
        self._best_loss = inf
        self._epsilon = (0.0, 0.0)
        self._thread = ThreadPoolExecutor(1, "epsilon")
        self._account()

    def counted(self, *, late: bool = False) -> None:
        """An update was counted."""
        self._heard = self._clock()
        self._metrics.counted(self._config.run, late=late)

    def refused(self, cause: str) -> None:
        """An update was refused, or left out."""
        self._metrics.refused(self._config.run, cause)

    def closed(self, record: RoundRecord) -> None:
        """A round was closed."""
        self._metrics.closed(self._config.run, record)
        self._closed += 1
        self._loss = record.loss
        if record.loss is not None and record.loss < self._best_loss:
            self._best_loss = record.loss
        self._account()

    def given_up(self) -> None:
        """A round came to nothing."""
        self._metrics.given_up(self._config.run)

    def look(self, waiting: int, *, goes_on: bool) -> None:
        """Look for causes of alerts, once a second at most; a run that does not go on is not waited for.

        `waiting` counts what waits to be done.
        """
        now, run = self._clock(), self._config.run
        if not goes_on:
            self._heard = now
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked, (planned, spent) = now, self._epsilon
        heard = self._heard if goes_on else None
        seen = Seen(now, self._config.round_seconds, heard, self._loss, self._best_loss, spent, planned, waiting)
        self._alerts, raised = step(self._alerts, self._rules, seen)
        self._metrics.standing(run, self._alerts.standing, raised)
        for kind, text in raised.items():
            logger.warning("run %s: %s: %s", run, kind, text)
            self._events.add("alert", f"{kind}: {text}", run=run)

    def close(self) -> None:
        """Wait for what is being computed."""
        self._thread.shutdown()

    def _account(self) -> None:
        if self._config.privacy is not None:
            self._thread.submit(self._spend, self._closed)

    def _spend(self, closed: int) -> None:
        planned, _ = self._epsilon
        planned = planned or epsilon_after(self._config, self._config.rounds)
        self._epsilon = planned, epsilon_after(self._config, closed) if closed else 0.0
        self._metrics.epsilon(self._config.run, *self._epsilon)

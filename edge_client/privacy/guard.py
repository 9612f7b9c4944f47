"""What stands between a plan and a device's examples: in which runs it takes part, and what they cost its owner.

The ledger and its accountant are loaded by the first private round.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from edge_client.errors import LedgerDiskError, LedgerError, NotPrivateError
from edge_client.privacy.cap import Cap
from edge_client.privacy.ledger_files import is_begun
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.messages import RoundPlan
from wire_protocol.privacy import RecordPrivacy

if TYPE_CHECKING:
    from edge_client.privacy.charges import Charge
    from edge_client.privacy.ledger import Ledger


class PrivacyGuard:
    """Charges private rounds to the ledger in `state`; `clock` gives the time, None where it was never set.

    Any thread may ask.
    """

    def __init__(self, state: Path, cap: Cap, clock: Callable[[], datetime | None]) -> None:
        self._state, self._cap, self._clock = state, cap, clock
        self._lock = Lock()
        self._ledger: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        """Opened by who asks first; raises `LedgerError` or `LedgerDiskError`."""
        from edge_client.privacy.ledger import Ledger  # noqa: PLC0415 - devices without private runs need none

        with self._lock:
            if self._ledger is None:
                self._ledger = Ledger(self._state, self._cap)
            return self._ledger

    def require_allowed(self, plan: RoundPlan, scores: bool) -> None:
        """Raise where the device takes no part in the round: `NotPrivateError`, or what `charge` raises."""
        if plan.privacy is not None:
            self.ledger.require_allowed(*_charges(plan, scores))
        elif self._cap.private_only:
            raise NotPrivateError(
                "the run is not private, and [privacy] in the device's file allows only those that are"
            )

    def charge(self, plan: RoundPlan, scores: bool) -> LedgerMark | None:
        """Charge what the round is about to release, before anything is computed for it; `scores`: neurons are scored.

        Returns how far the ledger came, None where the run is not private. Raises `BudgetSpentError`, `LedgerError` or
        `LedgerDiskError`, and `NotPrivateError`.
        """
        if plan.privacy is None:
            self.require_allowed(plan, scores)
            return None
        now = self._clock()
        return self.ledger.charge(None if now is None else now.timestamp(), *_charges(plan, scores))

    def budget_left(self) -> float | None:
        """Epsilon between what is spent and the cap, None where nothing was charged yet or the ledger is refused."""
        if not is_begun(self._state):
            return None
        try:
            return max(0.0, self._cap.epsilon - self.ledger.epsilon)
        except (LedgerError, LedgerDiskError):
            return None

    def seen_by_server(self, mark: LedgerMark) -> None:
        """What the server has seen of the ledger; raises what `Ledger.seen_by_server` does."""
        try:
            ledger = self.ledger
        except LedgerError:
            return  # it is refused already
        ledger.seen_by_server(mark)


def _charges(plan: RoundPlan, scores: bool) -> tuple[Charge, ...]:
    from edge_client.privacy.charges import Charge  # noqa: PLC0415 - with the ledger

    privacy = plan.privacy
    if isinstance(privacy, RecordPrivacy):
        steps, *scoring = privacy.releases(plan.local_steps, scores)
        trained = Charge(plan.run, plan.round, "training", (steps,))
        return (trained, Charge(plan.run, plan.round, "scores", tuple(scoring))) if scoring else (trained,)
    assert privacy is not None
    return (Charge(plan.run, plan.round, "update", privacy.releases()),)

"""What is looked at as a round closes: which counted updates are outliers, and whose faults are too many.

An update alone is judged as it comes (`server.screening`); whether it is an outlier only shows beside the others of its
round. So outliers stay counted, with their receipts and in the account, and are left out of what the model is made of.
The verdict follows from the rows and bodies of the round alone, and is written before the round is closed: a server
that is killed meanwhile closes the round again and finds the same.

Blocking; runs in a worker thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from server.aggregation.fold import CountedUpdates
from server.config import RunConfig
from server.log_format import about
from server.outliers import Kept, Outlier, find_outliers
from server.quarantine import too_many
from server.records import FaultRecord, QuarantineRecord, UpdateRecord
from server.round_work import RoundWork
from server.run_watch import RunWatch
from server.storage import Store
from wire_protocol.layout import Layout

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundScreening:
    """Of one run; `clock` gives seconds since the Unix epoch."""

    config: RunConfig
    layout: Layout
    store: Store
    clock: Callable[[], float]
    watch: RunWatch

    def close(self, work: RoundWork) -> CountedUpdates:
        """The round's updates that the next model is made of; raises `StorageError`."""
        rows = self.store.updates.of_round(work.plan.run, work.plan.round)
        updates = work.updates(rows, self.layout)
        found = find_outliers(self.layout, updates) if self.config.outliers == "leave-out" else ()
        self._note(rows, found)
        self._hold(work.plan.round)
        return Kept(updates, frozenset(one.place for one in found)) if found else updates

    def _note(self, rows: tuple[UpdateRecord, ...], found: tuple[Outlier, ...]) -> None:
        faults = [
            FaultRecord(self.config.run, rows[one.place].round, rows[one.place].device, one.reason) for one in found
        ]
        self.store.faults.note_outliers(faults)
        for fault in faults:
            self.watch.refused("outlier")
            with about(device=fault.device):
                logger.warning("round %d: the update of %s is left out: %s", fault.round, fault.device, fault.reason)
            self.store.events.add(
                "update-refused", f"left out: {fault.reason}", run=fault.run, round=fault.round, device=fault.device
            )

    def _hold(self, number: int) -> None:
        rule, run = self.config.quarantine, self.config.run
        if rule is None:
            return
        faults = self.store.faults.since(run, rule.since(number))
        due = too_many(rule, faults, number, self.store.quarantine.released(run)) if faults else {}
        now = self.clock()
        for held in self.store.quarantine.hold(
            QuarantineRecord(device, run, number, now, due[device]) for device in due
        ):
            with about(device=held.device):
                logger.warning("round %d: device %s is in quarantine: %s", number, held.device, held.reason)
            self.store.events.add("device-quarantined", held.reason, run=run, round=number, device=held.device)

"""Which answer an update gets, by what is open, what is counted and who belongs to the fleet.

Runs in the event loop; what takes time is done in a worker thread, and only by `count`. A refusal moves a round on only
when the device itself surely sent what was refused: what anyone can announce in a device's name is answered, and
changes nothing else. In a private run an answer also says what is known of its device's privacy ledger.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from server import coordinator
from server.clocks import Clocks
from server.counting import Counted, Counting, InConflict, TurnedAway, Verdict
from server.errors import StorageError
from server.log_format import about
from server.receipts import refusal
from server.registry import Registry
from server.round_work import RoundWork
from server.rounds import Rounds
from server.storage import Store
from server.update_rows import Made
from server.uplink import Complete
from wire_protocol.messages import Receipt
from wire_protocol.topics import Part

logger = logging.getLogger(__name__)


class Answers:
    """Answers of one run's server."""

    def __init__(self, rounds: Rounds, counting: Counting, store: Store, registry: Registry, clocks: Clocks) -> None:
        self._rounds = rounds
        self._counting = counting
        self._store = store
        self._registry = registry
        self._clocks = clocks

    @property
    def resting(self) -> bool:
        """Whether no round is open and none is about to: the run is paused, or waits for devices or its turn."""
        return self._rounds.resting

    def standing(self, part: Part, sha256: bytes) -> Receipt | None:
        """The answer to give to an announced update at once, or None when it is to be sent and judged."""
        with about(run=part.run, round=part.round, device=part.device):
            receipt = self._standing(part, sha256)
        return None if receipt is None else self._with_ledger(part.device, receipt)

    def _standing(self, part: Part, sha256: bytes) -> Receipt | None:
        work = self._rounds.work
        book = work.book if work is not None and work.plan_of(part.round) is not None else None
        if book is not None and (receipt := book.standing(part, sha256)) is not None:
            return receipt
        if work is None or part.round != work.plan.round:
            counted = self._store.updates.counted_hash(part.run, part.round, part.device)
            if counted == sha256:
                return Receipt(run=part.run, round=part.round, sha256=sha256, accepted=True)
            if book is not None and counted is not None:
                return book.conflict(part, sha256)
        if held := self._store.quarantine.reason(part.device):
            return self._refuse(part, sha256, held, "quarantined")
        if self._rounds.judges(part.round):
            return None
        return self._refuse(part, sha256, self._rounds.why_not(part.round), "late")

    def _refuse(self, part: Part, sha256: bytes, reason: str, cause: str) -> Receipt:
        """Refuse an update for good; the device is told why."""
        self._rounds.watch.refused(cause)
        logger.info("round %d: update of %s refused: %.300r", part.round, part.device, reason)
        if self._rounds.work is None:
            return refusal(part, sha256, reason)
        return self._rounds.work.book.refuse(part, sha256, reason)

    async def count(self, completes: deque[Complete], let_go: Callable[[Part], None]) -> list[tuple[str, Receipt]]:
        """Judge and count what came in; the receipts to send, of which those that accept rest on a commit.

        Takes all out of `completes`; `let_go` is called in a worker thread for each that was judged, once it takes no
        more memory.
        """
        answered = self._take_answered(completes)
        work, number = self._rounds.work, len(completes)
        if not completes or work is None or not self._rounds.is_open(work.plan.round):
            return answered
        try:
            verdicts = await asyncio.to_thread(
                self._counting.count, work, _taken(completes), self._rounds.selections, self._clocks.wall(), let_go
            )
        except StorageError as error:
            logger.error("round %d: %d updates wait to be counted: %s", work.plan.round, number, error)
            return answered
        answered += await self._told([self._answered(work, verdict) for verdict in verdicts])
        await self._rounds.send_late_slices(
            one.part.device for one in verdicts if isinstance(one, Counted) and one.plan.round < work.plan.round
        )
        return answered

    def _take_answered(self, completes: deque[Complete]) -> list[tuple[str, Receipt]]:
        """Answer what is answered already; what is left in `completes` is to be judged, one of a device and round.

        What cannot be looked up is left out: it comes again.
        """
        answered: list[tuple[str, Receipt]] = []
        waiting: set[Made] = set()
        for _ in range(len(completes)):
            complete = completes.popleft()
            number, device = complete.part.round, complete.part.device
            try:
                receipt = self.standing(complete.part, complete.sha256)
            except StorageError as error:
                logger.error("round %d: the update of %s waits to be answered: %s", number, device, error)
                continue
            if receipt is not None:
                answered.append((device, receipt))
            elif (number, device) not in waiting:
                waiting.add((number, device))
                completes.append(complete)
        return answered

    async def flag_conflicts(self) -> None:
        """Write down updates that were announced after another one of the same device was counted."""
        taken = self._rounds.work.book.take_conflicts() if self._rounds.work is not None else ()
        for record in taken:
            logger.warning(
                "round %d: another update of %s was announced after one was counted (%d times); "
                "were its keys copied, or was it restored from a backup?",
                *(record.round, record.device, record.times),
            )
        if taken:
            try:
                await asyncio.to_thread(self._store.updates.flag, taken)
            except StorageError as error:
                logger.error("%d conflicts could not be written down: %s", len(taken), error)

    def _answered(self, work: RoundWork, verdict: Verdict) -> tuple[str, Receipt]:
        part = verdict.part
        with about(run=part.run, round=part.round, device=part.device):
            return self._answer(work, verdict)

    def _answer(self, work: RoundWork, verdict: Verdict) -> tuple[str, Receipt]:
        part, sha256 = verdict.part, verdict.sha256
        match verdict:
            case Counted(plan=plan, sub_model=sub_model):
                self._rounds.selections.note(part.device, plan, sub_model)
                self._rounds.observe(coordinator.UpdateCounted(part.device, part.round))
                self._rounds.watch.counted(late=part.round < work.plan.round)
                return part.device, work.book.accept(part, sha256)
            case InConflict():
                self._rounds.watch.refused("conflict")
                return part.device, work.book.conflict(part, sha256)
            case TurnedAway(reason=reason, is_the_devices=is_the_devices, cause=cause):
                if is_the_devices:
                    self._store.events.add("update-refused", reason, run=part.run, round=part.round, device=part.device)
                    self._rounds.observe(coordinator.UpdateRefused(part.device, part.round))
                return part.device, self._refuse(part, sha256, reason, cause)

    async def _told(self, answers: list[tuple[str, Receipt]]) -> list[tuple[str, Receipt]]:
        """The answers with what is known of ledgers; none where that cannot be read: they are asked for again."""

        def look_up() -> list[tuple[str, Receipt]]:
            return [(device, self._with_ledger(device, receipt)) for device, receipt in answers]

        try:
            return await asyncio.to_thread(look_up) if self._is_private else answers
        except StorageError as error:
            logger.error("%d updates wait to be answered: %s", len(answers), error)
            return []

    def _with_ledger(self, device: str, receipt: Receipt) -> Receipt:
        if not self._is_private:
            return receipt
        return msgspec.structs.replace(receipt, ledger=self._store.ledgers.seen(device, receipt.sha256))

    @property
    def _is_private(self) -> bool:
        work = self._rounds.work
        return work is not None and work.plan.privacy is not None


def _taken(completes: deque[Complete]) -> Iterator[Complete]:
    while completes:
        yield completes.popleft()

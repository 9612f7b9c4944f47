"""Judge complete updates and make the good ones durable, all in one go: group commit.

A batch costs one fsync of the round's segment and one transaction, however many updates it holds (DeWitt et al. 1984,
"Implementation Techniques for Main Memory Database Systems"). The transaction is what counts them: a receipt may follow
it and never precedes it. When writing fails, nothing of the batch is counted and nobody is answered: it comes again.

Updates are opened and written one at a time, and each is let go of before the next is looked at: a batch takes the
memory of one, and more may come while it waits for the disk.

Blocking; runs in a worker thread, one batch at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from server.known_selections import KnownSelections
from server.receipts import LONGEST_REASON
from server.records import Batch, LedgerRecord, RefusalRecord, Selection, UpdateRecord
from server.round_work import RoundWork
from server.screening import RefusalCause, Refused, not_drawn, screen
from server.spool import Extent
from server.update_rows import Made, UpdateRows
from server.uplink import Complete
from wire_protocol import messages
from wire_protocol.layout import Layout
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import SubModel, to_bitmaps
from wire_protocol.topics import Part

logger = logging.getLogger(__name__)

Opener = Callable[[Complete], bytes | Refused]
"""Opens what a device sealed, see `server.opening`."""


def _ignore(part: Part) -> None:
    del part


@dataclass(frozen=True)
class Counted:
    """The update, made by `plan`, is durably counted."""

    part: Part
    sha256: bytes
    plan: RoundPlan
    sub_model: SubModel


@dataclass(frozen=True)
class TurnedAway:
    """The update will never be counted; `is_the_devices` tells whether the device itself surely sent it."""

    part: Part
    sha256: bytes
    reason: str
    is_the_devices: bool
    cause: RefusalCause


@dataclass(frozen=True)
class InConflict:
    """Another update of the device and round is counted."""

    part: Part
    sha256: bytes


Verdict = Counted | TurnedAway | InConflict


@dataclass(frozen=True)
class _Good:
    part: Part
    sha256: bytes
    plan: RoundPlan
    sub_model: SubModel
    ledger: LedgerMark | None


class Counting:
    """Counts updates of one run."""

    def __init__(self, opener: Opener, layout: Layout, rows: UpdateRows) -> None:
        self._open = opener
        self._layout = layout
        self._rows = rows

    def count(
        self,
        work: RoundWork,
        completes: Iterable[Complete],
        known: KnownSelections,
        now: float,
        let_go: Callable[[Part], None] = _ignore,
    ) -> list[Verdict]:
        """Judge updates and count them in the open round; `now` is seconds since the Unix epoch.

        There is one of a device and round, which is the open one or an earlier one whose updates still count. `let_go`
        is called for each once it takes no more memory. Raises `StorageError` when nothing could be written. An update
        of any other round, or whose judging fails for a reason of ours, is left out of the answer.
        """
        judged: list[_Good | TurnedAway] = []
        extents = self._spool(work, self._bodies(work, completes, known, judged, let_go))
        good = [one for one in judged if isinstance(one, _Good)]
        refused = [one for one in judged if isinstance(one, TurnedAway)]
        standing = self._commit(work, list(zip(good, extents, strict=True)), refused, now) if judged else {}
        return [*refused, *(_verdict(one, standing) for one in good)]

    def _bodies(
        self,
        work: RoundWork,
        completes: Iterable[Complete],
        known: KnownSelections,
        judged: list[_Good | TurnedAway],
        let_go: Callable[[Part], None],
    ) -> Iterator[bytes]:
        """What is to be spooled, as it is judged; every verdict is appended to `judged`."""
        for complete in completes:
            part = complete.part
            plan = work.plan_of(part.round)
            if plan is None:
                let_go(part)
                continue
            try:
                verdict, body = self._judge(complete, plan, known.of(part.device, plan))
            except Exception:
                logger.exception(
                    "round %d: judging the update of %s failed; it may come again", part.round, part.device
                )
            else:
                judged.append(verdict)
                if isinstance(verdict, _Good):
                    yield body
            let_go(part)

    def _judge(self, complete: Complete, plan: RoundPlan, known: SubModel | None) -> tuple[_Good | TurnedAway, bytes]:
        """The verdict, and the update with its bitmaps, also where it came without them."""
        part, sha256 = complete.part, complete.sha256
        body = self._open(complete)
        if isinstance(body, Refused):
            return TurnedAway(part, sha256, body.reason, is_the_devices=False, cause=body.cause), b""
        verdict = not_drawn(part.device, plan) or screen(body, plan, self._layout, known)
        if isinstance(verdict, Refused):
            return TurnedAway(part, sha256, verdict.reason, is_the_devices=True, cause=verdict.cause), b""
        good = _Good(part, sha256, plan, verdict.sub_model, verdict.update.ledger)
        return good, messages.encode(verdict.update)

    def _spool(self, work: RoundWork, bodies: Iterable[bytes]) -> list[Extent]:
        if work.segment_is_behind:
            work.segment.commit(self._rows.end(work.plan.run, work.plan.round))
        work.segment_is_behind = True
        return work.segment.write(bodies)

    def _commit(
        self, work: RoundWork, good: Sequence[tuple[_Good, Extent]], refused: Sequence[TurnedAway], now: float
    ) -> dict[Made, bytes]:
        standing = self._rows.commit(
            Batch(
                updates=tuple(
                    UpdateRecord(*_key(one), extent.offset, extent.length, counted_in=work.plan.round)
                    for one, extent in good
                ),
                selections=tuple(self._selection(one) for one, _ in good),
                refusals=tuple(
                    RefusalRecord(*_key(one), one.reason[:LONGEST_REASON], one.cause)
                    for one in refused
                    if one.is_the_devices
                ),
                now=now,
                ledgers=tuple(
                    LedgerRecord(one.part.device, one.ledger.count, one.ledger.head, one.sha256)
                    for one, _ in good
                    if one.ledger is not None
                ),
            )
        )
        work.segment.commit(work.segment.end + sum(extent.length for _, extent in good))
        work.segment_is_behind = False
        return standing

    def _selection(self, good: _Good) -> Selection:
        part, kept = good.part, to_bitmaps(self._layout, good.sub_model)
        return Selection(part.device, part.round, good.plan.resync_round, kept, good.sub_model.widths)


def _key(one: _Good | TurnedAway) -> tuple[str, int, str, bytes]:
    return one.part.run, one.part.round, one.part.device, one.sha256


def _verdict(good: _Good, standing: dict[Made, bytes]) -> Verdict:
    if standing[good.part.round, good.part.device] != good.sha256:
        return InConflict(good.part, good.sha256)
    return Counted(good.part, good.sha256, good.plan, good.sub_model)

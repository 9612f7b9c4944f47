"""Judge complete updates and make the good ones durable, all in one go: group commit.

A batch costs one fsync of the round's segment and one transaction, however many updates it holds (DeWitt et al. 1984,
"Implementation Techniques for Main Memory Database Systems"). The transaction is what counts them: a receipt may follow
it and never precedes it. When writing fails, nothing of the batch is counted and nobody is answered: it comes again.

Blocking; runs in a worker thread, one batch at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from server.known_selections import KnownSelections
from server.receipts import LONGEST_REASON
from server.records import Batch, RefusalRecord, Selection, UpdateRecord
from server.round_work import RoundWork
from server.screening import Refused, screen
from server.update_rows import Made, UpdateRows
from server.uplink import Complete
from wire_protocol import messages
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import SubModel, to_bitmaps

logger = logging.getLogger(__name__)

Opener = Callable[[Complete], bytes | Refused]
"""Opens what a device sealed, see `server.opening`."""


@dataclass(frozen=True)
class Counted:
    """The update, made by `plan`, is durably counted."""

    complete: Complete
    plan: RoundPlan
    sub_model: SubModel


@dataclass(frozen=True)
class TurnedAway:
    """The update will never be counted; `is_the_devices` tells whether the device itself surely sent it."""

    complete: Complete
    reason: str
    is_the_devices: bool


@dataclass(frozen=True)
class InConflict:
    """Another update of the device and round is counted."""

    complete: Complete


Verdict = Counted | TurnedAway | InConflict


@dataclass(frozen=True)
class _Good:
    """`body` is the update with its bitmaps, also where it came without them."""

    complete: Complete
    plan: RoundPlan
    sub_model: SubModel
    body: bytes = field(repr=False)


class Counting:
    """Counts updates of one run."""

    def __init__(self, opener: Opener, layout: Layout, rows: UpdateRows) -> None:
        self._open = opener
        self._layout = layout
        self._rows = rows

    def count(
        self, work: RoundWork, completes: Iterable[Complete], known: KnownSelections, now: float
    ) -> list[Verdict]:
        """Judge updates and count them in the open round; `now` is seconds since the Unix epoch.

        There is one of a device and round, which is the open one or an earlier one whose updates still count. Raises
        `StorageError` when nothing could be written. An update of any other round, or whose judging fails for a reason
        of ours, is left out of the answer.
        """
        judged = [
            verdict
            for complete in completes
            if (plan := work.plan_of(complete.part.round)) is not None
            and (verdict := self._judge_safely(complete, plan, known.of(complete.part.device, plan))) is not None
        ]
        good = [one for one in judged if isinstance(one, _Good)]
        refused = [one for one in judged if isinstance(one, TurnedAway)]
        standing = self._write(work, good, refused, now) if judged else {}
        return [*refused, *(_verdict(one, standing) for one in good)]

    def _judge_safely(self, complete: Complete, plan: RoundPlan, known: SubModel | None) -> _Good | TurnedAway | None:
        try:
            return self._judge(complete, plan, known)
        except Exception:
            part = complete.part
            logger.exception("round %d: judging the update of %s failed; it may come again", part.round, part.device)
            return None

    def _judge(self, complete: Complete, plan: RoundPlan, known: SubModel | None) -> _Good | TurnedAway:
        body = self._open(complete)
        if isinstance(body, Refused):
            return TurnedAway(complete, body.reason, is_the_devices=False)
        verdict = screen(body, plan, self._layout, known)
        if isinstance(verdict, Refused):
            return TurnedAway(complete, verdict.reason, is_the_devices=True)
        return _Good(complete, plan, verdict.sub_model, messages.encode(verdict.update))

    def _write(
        self, work: RoundWork, good: Sequence[_Good], refused: Sequence[TurnedAway], now: float
    ) -> dict[Made, bytes]:
        if work.segment_is_behind:
            work.segment.commit(self._rows.end(work.plan.run, work.plan.round))
        work.segment_is_behind = True
        extents = work.segment.write([one.body for one in good])
        standing = self._rows.commit(
            Batch(
                updates=tuple(
                    UpdateRecord(*_key(one.complete), extent.offset, extent.length, counted_in=work.plan.round)
                    for one, extent in zip(good, extents, strict=True)
                ),
                selections=tuple(self._selection(one) for one in good),
                refusals=tuple(
                    RefusalRecord(*_key(one.complete), one.reason[:LONGEST_REASON])
                    for one in refused
                    if one.is_the_devices
                ),
                now=now,
            )
        )
        work.segment.commit(work.segment.end + sum(extent.length for extent in extents))
        work.segment_is_behind = False
        return standing

    def _selection(self, good: _Good) -> Selection:
        part, kept = good.complete.part, to_bitmaps(self._layout, good.sub_model)
        return Selection(part.device, part.round, good.plan.resync_round, kept, good.sub_model.widths)


def _key(complete: Complete) -> tuple[str, int, str, bytes]:
    return complete.part.run, complete.part.round, complete.part.device, complete.sha256


def _verdict(good: _Good, standing: dict[Made, bytes]) -> Verdict:
    part = good.complete.part
    if standing[part.round, part.device] != good.complete.sha256:
        return InConflict(good.complete)
    return Counted(good.complete, good.plan, good.sub_model)

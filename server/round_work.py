"""One round's work: its plan, the answers given, the segment that holds its updates, and the account."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from server.aggregation.fold import Folded
from server.errors import DamagedError
from server.evaluation import Evaluation
from server.receipts import ReceiptBook
from server.records import RoundRecord, UpdateRecord
from server.screening import Screened, read_screened
from server.spool import Extent, Segment
from server.traffic import Bytes, dense_bytes
from wire_protocol.errors import ProtocolError
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan


@dataclass
class RoundWork:
    """`opened` is when the round opened, in seconds of a clock that never jumps.

    `segment_is_behind` says that a commit failed, so that the segment's end is to be read from the rows again.
    """

    plan: RoundPlan
    book: ReceiptBook
    segment: Segment
    opened: float
    segment_is_behind: bool = False

    def updates(self, rows: tuple[UpdateRecord, ...], layout: Layout) -> Iterator[Screened]:
        """Read the counted updates back from the spool, one at a time, in the order of the rows."""
        for row in rows:
            body = self.segment.read(Extent(row.offset, row.length))
            try:
                yield read_screened(body, layout)
            except ProtocolError as error:
                raise DamagedError(f"round {row.round}: the update of {row.device} in the spool: {error}") from error

    def record(
        self, folded: Folded, layout: Layout, evaluation: Evaluation | None, spent: Bytes, now: float
    ) -> RoundRecord:
        """The round as it is closed at `now` (seconds as `opened`), having cost `spent`."""
        dense = dense_bytes(layout, self.book.accepted)
        return RoundRecord(
            round=self.plan.round,
            resync=self.plan.resync,
            accuracy=evaluation.accuracy if evaluation else None,
            loss=evaluation.loss if evaluation else None,
            updates_accepted=self.book.accepted,
            updates_rejected=self.book.rejected,
            bytes_up=spent.up,
            bytes_down=spent.down,
            bytes_up_dense=dense.up,
            bytes_down_dense=dense.down,
            trained_macs=folded.compute.trained,
            scored_macs=folded.compute.scored,
            full_macs=folded.compute.full,
            seconds=now - self.opened,
            model_version=self.plan.model_version + 1,
        )

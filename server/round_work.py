"""One round's work: its plan, the answers given, the segment that holds its updates, and the account."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from server.compute_account import Compute
from server.errors import DamagedError
from server.evaluation import Evaluation
from server.receipts import ReceiptBook
from server.records import RoundRecord, UpdateRecord
from server.screening import Screened, read_screened, updates_together
from server.spool import Extent, Segment
from server.traffic import Bytes, dense_bytes
from wire_protocol.errors import ProtocolError
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan


@dataclass(frozen=True)
class SpooledUpdates:
    """Counted updates, read back from the spool a few at a time, each time they are iterated over.

    Where one of those is damaged, each is decoded alone to say which; `DamagedError` names its device.
    """

    segment: Segment
    rows: tuple[UpdateRecord, ...]
    layout: Layout

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Screened]:
        together = updates_together(self.layout)
        for start in range(0, len(self.rows), together):
            yield from self._read(self.rows[start : start + together])

    def _read(self, rows: tuple[UpdateRecord, ...]) -> Iterator[Screened]:
        bodies = self.segment.read([Extent(row.offset, row.length) for row in rows])
        try:
            yield from read_screened(bodies, self.layout)
        except ProtocolError:
            for row, body in zip(rows, bodies, strict=True):
                self._require_sound(row, body)
            raise

    def _require_sound(self, row: UpdateRecord, body: bytes) -> None:
        try:
            list(read_screened([body], self.layout))
        except ProtocolError as error:
            raise DamagedError(f"round {row.round}: the update of {row.device} in the spool: {error}") from error


@dataclass
class RoundWork:
    """`opened` is when the round opened, in seconds of a clock that never jumps.

    `earlier` are the plans of rounds whose updates still count, by number: none in a synchronous run.
    `segment_is_behind` says that a commit failed, so that the segment's end is to be read from the rows again.
    """

    plan: RoundPlan
    book: ReceiptBook
    segment: Segment
    opened: float
    earlier: Mapping[int, RoundPlan] = field(default_factory=dict)
    segment_is_behind: bool = False

    @property
    def oldest(self) -> int:
        """The oldest round whose updates count."""
        return min([self.plan.round, *self.earlier])

    def plan_of(self, number: int) -> RoundPlan | None:
        """The plan by which an update of a round is judged, None where such do not count."""
        return self.plan if number == self.plan.round else self.earlier.get(number)

    def updates(self, rows: tuple[UpdateRecord, ...], layout: Layout) -> SpooledUpdates:
        """The counted updates, in the order of the rows."""
        return SpooledUpdates(self.segment, rows, layout)

    def record(
        self, compute: Compute, layout: Layout, evaluation: Evaluation | None, spent: Bytes, now: float
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
            trained_macs=compute.trained,
            scored_macs=compute.scored,
            full_macs=compute.full,
            seconds=now - self.opened,
            model_version=self.plan.model_version + 1,
            updates_late=self.book.late,
        )

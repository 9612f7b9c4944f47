"""One round's work: its plan, the answers given, the running sum and the account. No input or output."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from server.aggregation.masked_mean import MaskedMean
from server.compute_account import Compute, compute_of
from server.evaluation import Evaluation
from server.receipts import ReceiptBook
from server.records import RoundRecord
from server.screening import Screened
from server.server_optimizer import federated_averaging
from server.traffic import Bytes, dense_bytes
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import Arrays


class RoundWork:
    """`opened` is the monotonic time in seconds when the round opened."""

    def __init__(self, plan: RoundPlan, layout: Layout, opened: float) -> None:
        self.plan = plan
        self.opened = opened
        self.book = ReceiptBook()
        self.compute = Compute()
        self._layout = layout
        self._mean = MaskedMean(layout)

    def count(self, screened: Screened) -> None:
        """Add a screened update, weighted by its examples; the caller has made sure that it is counted once."""
        self._mean.add(screened.sub_model, screened.values, screened.update.examples)
        self.compute += compute_of(self._layout, screened.sub_model, screened.update)

    def next_parameters(self, parameters: Arrays) -> dict[str, NDArray[Any]]:
        """The model after this round."""
        return federated_averaging(parameters, self._mean.mean())

    def record(self, evaluation: Evaluation | None, spent: Bytes, now: float) -> RoundRecord:
        """The round as it is closed at `now` (monotonic seconds), having cost `spent`."""
        dense = dense_bytes(self._layout, self.book.accepted)
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
            trained_macs=self.compute.trained,
            scored_macs=self.compute.scored,
            full_macs=self.compute.full,
            seconds=now - self.opened,
            model_version=self.plan.model_version + 1,
        )

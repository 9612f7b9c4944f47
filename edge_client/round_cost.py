"""What a round costs a device at any widths, resource by resource, beside what there is of each. No I/O.

Seconds are counted from when the round's work begins: scoring (as predicted, or as it was), then the steps; sending is
added where the deadline is concerned. Bytes are those of the sealed update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from edge_client.cost_model import Columns, CostModel, Widths, value_bytes
from wire_protocol.envelope import SEALED_OVERHEAD
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan, Update, encode
from wire_protocol.sub_model import element_count, full_sub_model, to_bitmaps

RESOURCES = ("seconds_per_round", "deadline", "bytes_per_day", "memory_mb")
"""The columns of `RoundCost.uses` and of `Room.row`, named by the limit of each."""
DEADLINE_SHARE = 0.8
"""Of the time until the deadline: predictions may be a fifth too low."""
ANNOUNCEMENT_BYTES = 96
"""A manifest, which goes before the chunks."""


@dataclass(frozen=True)
class Room:
    """What there is: seconds of work, seconds until the deadline, bytes, and megabytes."""

    seconds: float = inf
    until_deadline: float = inf
    bytes: float = inf
    memory_mb: float = inf

    @property
    def row(self) -> Columns:
        """In the order of `RESOURCES`."""
        return np.array([self.seconds, DEADLINE_SHARE * self.until_deadline, self.bytes, self.memory_mb])


@dataclass(frozen=True)
class RoundCost:
    """Costs of a round of `steps` steps.

    `scoring_seconds` and `scoring_mb` are what scoring takes or took, where `scores` says that there is any. An update
    has `fixed_bytes` and `bytes_an_element`, and goes at `bytes_per_second`.
    """

    model: CostModel
    steps: int
    fixed_bytes: float
    bytes_an_element: float
    bytes_per_second: float
    scoring_seconds: float = 0.0
    scoring_mb: float = 0.0
    scores: bool = False

    def uses(self, widths: Widths) -> Columns:
        """What widths [n, groups] use of each resource: float64 [n, 4], in the order of `RESOURCES`."""
        working = self.scores * self.scoring_seconds + self.model.round_seconds(widths, self.steps)
        size = self.update_bytes(widths)
        memory = np.maximum(self.scores * self.scoring_mb, self.model.peak_mb(widths))
        return np.stack([working, working + size / self.bytes_per_second, size, memory], axis=1)

    def with_scoring(self) -> RoundCost:
        """The same round with neurons scored in it."""
        return replace(self, scores=True)

    def update_bytes(self, widths: Widths) -> Columns:
        """Predicted bytes of the update that is sent: float64 [n]."""
        return self.fixed_bytes + self.bytes_an_element * self.model.sizes.elements(widths)


LARGE_COUNT = 1 << 16
"""Takes as many bytes on the wire as counts of examples mostly do."""


def update_bytes(layout: Layout, plan: RoundPlan, most: Mapping[str, int]) -> tuple[float, float]:
    """Fixed bytes of an update, and bytes an element, by the codec's own estimates.

    They are a line in the number of elements, up to the last block of each tensor: two estimates, for one neuron a
    group and for `most`, give it.
    """
    least = dict.fromkeys(most, 1)
    sizes = [value_bytes(layout, widths, plan.codec) for widths in (least, most)]
    counts = [element_count(layout, widths) for widths in (least, most)]
    slope = (sizes[1] - sizes[0]) / (counts[1] - counts[0]) if counts[1] > counts[0] else 0.0
    return sizes[1] - slope * counts[1] + _header_bytes(layout, plan), slope


def _header_bytes(layout: Layout, plan: RoundPlan) -> int:
    """What of an update is not values, by making one without any."""
    kept = to_bitmaps(layout, full_sub_model(layout))
    empty = Update(
        run=plan.run,
        round=plan.round,
        model_version=plan.model_version,
        examples=LARGE_COUNT,
        trained=LARGE_COUNT,
        scored=LARGE_COUNT,
        kept=kept,
        precision=plan.precision,
        values=b"",
    )
    return len(encode(empty)) + SEALED_OVERHEAD + ANNOUNCEMENT_BYTES

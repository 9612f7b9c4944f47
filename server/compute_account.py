"""Account of the multiply-accumulates that a fleet's training cost, against those of full models.

A training step passes forward once and backward twice (towards inputs and towards weights), each about as many
multiply-accumulates as the forward pass: a factor of 3 (Kaplan et al. 2020, appendix B). Scoring neurons passes
through the full model in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

from wire_protocol.layout import Layout
from wire_protocol.messages import Update
from wire_protocol.sub_model import SubModel, multiply_accumulates

_PASSES = 3


@dataclass(frozen=True)
class Compute:
    """Multiply-accumulates: `trained` in sub-models, `scored` in choosing them, `full` had full models been trained."""

    trained: int = 0
    scored: int = 0
    full: int = 0

    def __add__(self, other: Compute) -> Compute:
        return Compute(self.trained + other.trained, self.scored + other.scored, self.full + other.full)


def compute_of(layout: Layout, sub_model: SubModel, update: Update) -> Compute:
    """What one device's update cost."""
    whole = _PASSES * multiply_accumulates(layout, layout.group_sizes)
    narrow = _PASSES * multiply_accumulates(layout, sub_model.widths)
    return Compute(trained=narrow * update.trained, scored=whole * update.scored, full=whole * update.trained)

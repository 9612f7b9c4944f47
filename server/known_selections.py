"""Which neurons the server knows of each device: those of its newest counted update, and the resync they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import SubModel


@dataclass(frozen=True)
class Known:
    """Neurons chosen in the round `resync_round`."""

    resync_round: int
    sub_model: SubModel


class KnownSelections:
    """One selection a device at most; late updates bring no older one back."""

    def __init__(self, known: Mapping[str, Known]) -> None:
        self._known = dict(known)

    def note(self, device: str, plan: RoundPlan, sub_model: SubModel) -> None:
        """An update by this plan was counted."""
        before = self._known.get(device)
        if before is None or before.resync_round <= plan.resync_round:
            self._known[device] = Known(plan.resync_round, sub_model)

    def of(self, device: str, plan: RoundPlan) -> SubModel | None:
        """The device's neurons for rounds by this plan, None where they are not known or are to be chosen."""
        known = self._known.get(device)
        return known.sub_model if known is not None and known.resync_round == plan.resync_round else None

"""Send the devices of a round the values of the neurons that they keep."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from server.downlink import Downlink
from server.known_selections import KnownSelections
from server.registry import Registry
from server.resync import encode_slice
from server.round_work import RoundWork
from server.server_optimizers.optimizer import Parameters
from wire_protocol.identity import PublicKeys
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import SubModel


@dataclass(frozen=True)
class SlicePost:
    """Slices of one run's models."""

    layout: Layout
    registry: Registry
    downlink: Downlink

    async def send(
        self, work: RoundWork, selections: KnownSelections, parameters: Parameters, devices: Iterable[str]
    ) -> None:
        """Send the open round's slices to those of `devices` that are drawn, whose neurons are known, and who have not
        answered yet.
        """
        plan = work.plan
        for device in sorted(devices):
            keys, known = self.registry.keys(device), selections.of(device, plan)
            if not keys or known is None or work.book.has_answered(device) or not plan.draws(device):
                continue
            payload = await asyncio.to_thread(self._seal, device, keys, plan, known, parameters)
            self.downlink.slice_(device, plan, payload)

    def _seal(
        self, device: str, keys: Sequence[PublicKeys], plan: RoundPlan, known: SubModel, parameters: Parameters
    ) -> bytes:
        message = encode_slice(self.layout, parameters, known, plan)
        return self.downlink.sealed_slice(device, keys, plan, message)

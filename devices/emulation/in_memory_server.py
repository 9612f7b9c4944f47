"""The server's cores without a server: models and slices out, updates in, and the next model from them.

For fleets in one process, virtual or in a benchmark. What it does to bytes is what the server does: it encodes by
`server.resync`, judges by `server.screening`, and combines by `server.next_model`, in the order of devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from server import resync
from server.adaptive_clipping import ClipQuantile
from server.aggregation.rule import AggregationRule
from server.compute_account import Compute
from server.config import Outliers
from server.next_model import Combining, Model
from server.outliers import Kept, find_outliers
from server.screening import Refused, Screened, not_drawn, read_screened, screen, updates_together
from server.server_optimizers.optimizer import Parameters, ServerOptimizer
from wire_protocol import messages
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import SubModel


@dataclass
class InMemoryRound:
    """A round that is open: its plan and the encoded updates that count, by device.

    They are decoded anew each time one iterates over them, in the order of the devices' names.
    """

    plan: RoundPlan
    layout: Layout
    bodies: dict[str, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.bodies)

    def __iter__(self) -> Iterator[Screened]:
        bodies, together = [self.bodies[device] for device in sorted(self.bodies)], updates_together(self.layout)
        for start in range(0, len(bodies), together):
            yield from read_screened(bodies[start : start + together], self.layout)

    def hear(self, device: str, body: bytes, known: SubModel | None) -> Screened | Refused:
        """Judge what a device says, an encoded `Update` or `Decline`; a good update counts.

        `known` are the neurons of the device's slice.
        """
        verdict = not_drawn(device, self.plan) or screen(body, self.plan, self.layout, known)
        if isinstance(verdict, Screened):
            self.bodies[device] = messages.encode(verdict.update)
        return verdict


class InMemoryServer:
    """A model and what makes the next one of it; `left_out` are the places of the last round's outliers."""

    def __init__(
        self,
        layout: Layout,
        rule: AggregationRule,
        optimizer: ServerOptimizer,
        parameters: Parameters,
        clipping: ClipQuantile | None = None,
        outliers: Outliers = "keep",
    ) -> None:
        self.layout = layout
        self._combining = Combining(layout, rule, optimizer, clipping)
        self._outliers = outliers
        self.left_out: frozenset[int] = frozenset()
        self._model = Model(parameters, optimizer.init(parameters))

    @property
    def parameters(self) -> Parameters:
        """The model as it is now: full float32 arrays by name."""
        return self._model.parameters

    @property
    def ranking(self) -> Mapping[str, bytes]:
        """The fleet's, by the last resync's scores."""
        return self._model.ranking

    @property
    def clip_norm(self) -> float | None:
        """The next round's, None where it is the run's."""
        return self._model.clip_norm

    def whole_model(self, plan: RoundPlan) -> bytes:
        """What a device downloads at a resync."""
        return resync.encode_model(self.layout, self.parameters, plan.downlink)

    def slice_(self, plan: RoundPlan, sub_model: SubModel) -> bytes:
        """The encoded `Slice` for a device that keeps these neurons."""
        return resync.encode_slice(self.layout, self.parameters, sub_model, plan)

    def open_round(self, plan: RoundPlan) -> InMemoryRound:
        """A round by this plan, with no update yet."""
        return InMemoryRound(plan, self.layout)

    def close_round(self, closing: InMemoryRound) -> Compute:
        """Make the next model of a round's updates, of which there is at least one; returns what they cost."""
        found = find_outliers(self.layout, closing) if self._outliers == "leave-out" else ()
        self.left_out = frozenset(one.place for one in found)
        kept = Kept(closing, self.left_out)
        self._model, compute = self._combining.next_model(self._model, closing.plan, kept)
        return compute

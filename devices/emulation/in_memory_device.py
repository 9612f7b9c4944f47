"""A device's side of a round without a device: what it receives, decoded, and the graphs that it runs.

For fleets in one process, virtual or in a benchmark; the work itself is `edge_client.local_update`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edge_client.fisher import FisherScorer
from edge_client.local_update import LocalWork
from edge_client.onnx_session import Graph
from edge_client.privacy.mechanism import Mechanism
from edge_client.privacy.record_training import RecordTraining, open_step
from edge_client.training.portable import PortableRuntime
from edge_client.training.runtime import TrainingRuntime
from wire_protocol import messages
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan, Slice
from wire_protocol.privacy import RecordPrivacy
from wire_protocol.sub_model import Arrays, SubModel, full_sub_model, sub_shapes
from wire_protocol.tensor_codec import Codec, decode


@dataclass(frozen=True)
class Graphs:
    """A bundle's graphs, opened once for all devices of a process."""

    bundle: Path
    layout: Layout
    runtime: PortableRuntime
    scorer: FisherScorer

    @classmethod
    def open(cls, bundle: Path, layout: Layout) -> Graphs:
        """Load them, each for one thread; raises `TrainingError`."""
        runtime, scorer = PortableRuntime.open(bundle, layout), FisherScorer.open(bundle, layout)
        return cls(bundle, layout, runtime, scorer)

    def runtime_for(self, work: LocalWork) -> TrainingRuntime:
        """What trains as the work's plan asks; raises `TrainingError`."""
        privacy = work.plan.privacy
        if isinstance(privacy, RecordPrivacy):
            return RecordTraining(self._private_step, Mechanism(privacy, work.divisor, work.noise))
        return self.runtime

    @cached_property
    def _private_step(self) -> Graph:
        return open_step(self.bundle)


def decode_model(layout: Layout, plan: RoundPlan, content: bytes) -> Arrays:
    """The whole model as a device has it; raises `ProtocolError`."""
    return decode(content, sub_shapes(layout, full_sub_model(layout).widths), plan.downlink_codec)


def decode_slice(layout: Layout, sub_model: SubModel, content: bytes) -> Arrays:
    """The arrays of an encoded `Slice`; raises `ProtocolError`."""
    received = messages.decode(content, Slice)
    return decode(received.values, sub_shapes(layout, sub_model.widths), Codec(received.precision))

"""What a run's rounds work with."""

from __future__ import annotations

from dataclasses import dataclass

from server.bundle import Bundle
from server.clocks import Clocks
from server.config import RunConfig
from server.downlink import Downlink
from server.evaluation import Evaluator
from server.metrics import Metrics
from server.model_files import ModelFiles
from server.registry import Registry
from server.spool import Spool
from server.storage import Store
from server.traffic import Traffic
from server.uplink import Uplink
from wire_protocol.examples import Examples


@dataclass(frozen=True)
class Workplace:
    """Where to read and write, whom to tell, what forgets all that is not of the open round.

    `held_out` evaluates a model, None for no evaluation.
    """

    config: RunConfig
    bundle: Bundle
    store: Store
    models: ModelFiles
    spool: Spool
    registry: Registry
    downlink: Downlink
    traffic: Traffic
    held_out: tuple[Evaluator, Examples] | None
    clocks: Clocks
    uplink: Uplink
    metrics: Metrics

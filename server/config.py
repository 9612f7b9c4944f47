"""What a run and a service are asked to do: frozen values, checked when made.

Every check raises `InvalidValueError` naming field, value and legal range.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Literal, get_args

from sqlalchemy import URL

from server.adaptive_clipping import ClipQuantile
from server.aggregation.buffered import BufferRule
from server.aggregation.choice import AggregationConfig
from server.model_archive import ArchiveSettings
from server.quarantine import QuarantineRule
from server.rate_schedule import RateDecay, RateSchedule
from server.server_optimizers.choice import ServerOptimizerConfig
from wire_protocol import topics
from wire_protocol.broker_url import BrokerUrl
from wire_protocol.chunking import DEFAULT_CHUNK_BYTES
from wire_protocol.errors import require
from wire_protocol.examples import Examples
from wire_protocol.local_training import LocalTraining
from wire_protocol.messages import MAX_COUNT, SelectionPolicy, require_fits_privacy
from wire_protocol.model_difference import DifferencePrecision
from wire_protocol.privacy import Privacy
from wire_protocol.tensor_codec import Codec, DownlinkPrecision, Precision

Difference = Literal["off", DifferencePrecision]
"""How the whole model of a resync goes to devices that have the last one."""

Outliers = Literal["leave-out", "keep"]
"""What becomes of updates that `server.outliers` finds."""

CLIPPED_WITH_GAIN = LocalTraining(clip_gradient=5.0, hidden_gain=2.0)
"""What did best where it was measured (docs/results.md)."""


@dataclass(frozen=True)
class RunConfig:
    """One federated run.

    `rounds` rounds are closed in all; `keep` in (0, 1] is the fraction of neurons a device keeps in each group, chosen
    afresh every `resync_every` rounds. `min_devices` must be online before the first round opens (also after a restart,
    unless a round was open then); `round_seconds` is a round's time limit, and `quorum` how many updates it needs
    before it can close: with fewer it is prolonged. With `give_up` the run ends in an error as soon as every device
    online was refused, or had no update to give, since a round was closed. Of the devices online each round takes those
    that `participation` and `participation_seed` draw (`wire_protocol.participation`). With `buffer` the run is
    asynchronous: a round closes once `buffer.goal` updates of it and of earlier rounds were counted; without, updates
    count in their own round only. `learning_rate` is the full rate; `rate_warmup` and `rate_decay` are how it rises and
    falls over the rounds. With `clipping` the clip norm of `privacy` is the first round's and moves. `initial_scale` is
    for a new run (`server.initial_model`). `aggregation` and `server_optimizer` say how updates become the next model,
    `outliers` whether those far from the others are left out of it, and `quarantine` when a device's faults are too
    many (None for never). The rest is what `RoundPlan` asks of devices.
    """

    run: str = "run"
    rounds: int = 40
    keep: float = 0.5
    resync_every: int = 5
    local_steps: int = 50
    batch_size: int = 16
    learning_rate: float = 0.15
    rate_decay: RateDecay = "cosine"
    rate_warmup: int = 0
    initial_scale: float = 1.0
    selection: SelectionPolicy = "fisher-cohort"
    precision: Precision = "int4"
    top_k: float = 1.0
    downlink: DownlinkPrecision = "int8"
    difference: Difference = "int4"
    privacy: Privacy | None = None
    clipping: ClipQuantile | None = None
    score_examples: int = 0
    training: LocalTraining = CLIPPED_WITH_GAIN
    min_devices: int = 1
    round_seconds: float = 60.0
    quorum: int = 1
    give_up: bool = False
    participation: float = 1.0
    participation_seed: int = 0
    buffer: BufferRule | None = None
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    server_optimizer: ServerOptimizerConfig = field(default_factory=ServerOptimizerConfig)
    outliers: Outliers = "leave-out"
    quarantine: QuarantineRule | None = field(default_factory=QuarantineRule)

    def __post_init__(self) -> None:
        topics.require_identifier("run", self.run)
        for name in ("rounds", "resync_every", "local_steps", "batch_size", "min_devices", "quorum"):
            count = getattr(self, name)
            require(isinstance(count, int) and count >= 1, name, count, "an integer of at least 1")
        for name in ("keep", "top_k", "participation"):
            share = getattr(self, name)
            require(0 < share <= 1, name, share, "above 0 and at most 1")
        for name in ("round_seconds", "initial_scale"):
            amount = getattr(self, name)
            require(amount > 0 and isfinite(amount), name, amount, "above 0 and finite")
        _ = self.rates
        for name in ("participation_seed", "score_examples"):
            count = getattr(self, name)
            require(0 <= count <= MAX_COUNT, name, count, "0 to 2^53")
        kinds = {"selection": SelectionPolicy, "precision": Precision, "downlink": DownlinkPrecision}
        for name, kind in (kinds | {"difference": Difference, "outliers": Outliers}).items():
            word, words = getattr(self, name), get_args(kind)
            require(word in words, name, word, f"one of {', '.join(words)}")
        require_fits_privacy(self.privacy, self.selection, self.score_examples)
        counts = 0.0 if self.privacy is None else self.privacy.count_noise_multiplier
        both = (counts > 0) == (self.clipping is not None)
        require(both, "count_noise_multiplier", counts, "above 0 with a clip_quantile, and only then")

    @property
    def rates(self) -> RateSchedule:
        """The learning rate of each round."""
        return RateSchedule(self.learning_rate, self.rounds, self.rate_decay, self.rate_warmup)

    @property
    def codec(self) -> Codec:
        """How updates are coded."""
        return Codec(self.precision, self.top_k)


@dataclass(frozen=True)
class ServiceSettings:
    """Where a service finds its fleet, keeps its state (a folder, made when missing) and listens.

    `fleet` is the operator's folder: the keys that sign plans and open updates, and the registry of devices. `port` 0
    takes a free one. `ca_file` holds the certificates that may have signed the broker's, None for the system's.
    `database` is where the database is, None for a SQLite file in the state folder; `archive` where versions of models
    are kept. `bundle` is that of the run to begin or to go on with, `run`, which the service ends with; None for a
    service that has the runs of its state folder, and takes orders, until it is stopped. `test` are held-out examples
    on which this run's model is evaluated after every round, None for those it has, or no evaluation. With `goes_on` an
    unfinished run of this bundle is gone on with, the newest, by the configuration `run` but under its own name.
    """

    state: Path
    broker: BrokerUrl
    bundle: Path | None = None
    fleet: Path = Path("fleet")
    ca_file: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    test: Examples | None = None
    run: RunConfig = field(default_factory=RunConfig)
    goes_on: bool = False
    chunk_bytes: int = DEFAULT_CHUNK_BYTES
    evaluation_threads: int = 1
    database: URL | None = None
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)

    def __post_init__(self) -> None:
        require(bool(self.host), "host", self.host, "a host name or address")
        require(0 <= self.port <= 65535, "port", self.port, "0 to 65535")
        require(self.chunk_bytes >= 1, "chunk_bytes", self.chunk_bytes, "at least 1")
        threads = self.evaluation_threads
        require(threads >= 1, "evaluation_threads", threads, "at least 1")

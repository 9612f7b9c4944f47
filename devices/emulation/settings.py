"""What an emulation or a simulation is asked to do: frozen values, checked when made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from devices.emulation.datasets import DatasetName
from devices.emulation.engines import EngineName
from devices.emulation.virtual_fleet import FleetShape, LinkRange
from server.adaptive_clipping import ClipQuantile
from server.aggregation.buffered import BufferRule
from server.aggregation.choice import AggregationConfig
from server.config import Difference, RunConfig
from server.rate_schedule import RateDecay
from server.server_optimizers.choice import ServerOptimizerConfig
from wire_protocol.errors import require
from wire_protocol.local_training import PLAIN, LocalTraining
from wire_protocol.messages import SelectionPolicy
from wire_protocol.privacy import Privacy
from wire_protocol.tensor_codec import DownlinkPrecision, Precision

Runtime = Literal["portable", "ort-training"]

DIRICHLET_ALPHA = 0.5
MAX_DEVICES = 500
"""What one process and one broker connection each were measured to carry."""
USUAL_MIX = {"raspberry-pi-zero-2w": 0.4, "raspberry-pi-4": 0.3, "raspberry-pi-5": 0.2, "jetson-orin-nano": 0.1}


@dataclass(frozen=True)
class FleetSettings:
    """`out` is the folder for the results; `data` the file or folder of the data set, None for its default place.

    `alpha` is the Dirichlet concentration of the non-IID split; a data set with a natural split sets `devices` itself.
    The rest is as in `RunConfig`, which checks it.
    """

    out: Path
    devices: int = 8
    rounds: int = RunConfig.rounds
    keep: float = RunConfig.keep
    resync_every: int = RunConfig.resync_every
    seed: int = 0
    dataset: DatasetName = "digits"
    data: Path | None = None
    model: str = "mlp"
    selection: SelectionPolicy = RunConfig.selection
    precision: Precision = RunConfig.precision
    top_k: float = RunConfig.top_k
    downlink: DownlinkPrecision = RunConfig.downlink
    local_steps: int = RunConfig.local_steps
    batch_size: int = RunConfig.batch_size
    learning_rate: float = RunConfig.learning_rate
    rate_decay: RateDecay = RunConfig.rate_decay
    rate_warmup: int = RunConfig.rate_warmup
    initial_scale: float = RunConfig.initial_scale
    privacy: Privacy | None = None
    clipping: ClipQuantile | None = None
    score_examples: int = RunConfig.score_examples
    training: LocalTraining = RunConfig.training
    alpha: float = DIRICHLET_ALPHA
    participation: float = RunConfig.participation
    buffer: BufferRule | None = None
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    server_optimizer: ServerOptimizerConfig = field(default_factory=ServerOptimizerConfig)

    def __post_init__(self) -> None:
        require(self.devices >= 1, "devices", self.devices, "at least 1")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        require(self.dataset in get_args(DatasetName), "dataset", self.dataset, f"one of {get_args(DatasetName)}")
        require(self.dataset != "npz" or self.data is not None, "data", self.data, "an .npz file for dataset npz")
        require(not self.out.exists() or self.out.is_dir(), "out", str(self.out), "a folder")
        self.run_config("run")

    def run_config(self, run: str, **more: Any) -> RunConfig:
        """The run that the server is asked for; raises `InvalidValueError`. The seed draws who takes part, too."""
        return RunConfig(
            run=run,
            rounds=self.rounds,
            keep=self.keep,
            resync_every=self.resync_every,
            local_steps=self.local_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            rate_decay=self.rate_decay,
            rate_warmup=self.rate_warmup,
            initial_scale=self.initial_scale,
            selection=self.selection,
            precision=self.precision,
            top_k=self.top_k,
            downlink=self.downlink,
            privacy=self.privacy,
            clipping=self.clipping,
            score_examples=self.score_examples,
            training=self.training,
            participation=self.participation,
            participation_seed=self.seed,
            buffer=self.buffer,
            aggregation=self.aggregation,
            server_optimizer=self.server_optimizer,
            **more,
        )


@dataclass(frozen=True)
class EmulationSettings(FleetSettings):
    """A fleet of real device code, a real broker and the real server."""

    runtime: Runtime = "portable"
    difference: Difference = RunConfig.difference

    def __post_init__(self) -> None:
        legal = f"1 to {MAX_DEVICES}; `fisherfleet simulate` takes more"
        require(1 <= self.devices <= MAX_DEVICES, "devices", self.devices, legal)
        super().__post_init__()
        require(self.runtime in get_args(Runtime), "runtime", self.runtime, f"one of {get_args(Runtime)}")
        fits = self.runtime != "ort-training" or self.training == PLAIN
        legal = "plain SGD with runtime ort-training: --optimizer sgd --proximal 0 --clip-gradient 0 --hidden-gain 1"
        require(fits, "training", self.training, legal)


@dataclass(frozen=True)
class SimulationSettings(FleetSettings):
    """A virtual fleet; see `virtual_fleet.FleetShape`.

    `round_seconds` is a round's deadline. With `examples` each device holds its own draw of so many of all examples,
    else all are dealt out. With `fit` devices fit what they train to what they can afford. `workers` processes compute
    them, by `engine`.
    """

    devices: int = 100
    keep: float = 1.0
    mix: Mapping[str, float] = field(default_factory=lambda: USUAL_MIX)
    link: LinkRange | None = None
    availability: float = 1.0
    period: float = FleetShape.period
    round_seconds: float = RunConfig.round_seconds
    examples: int | None = None
    fit: bool = True
    workers: int = 1
    engine: EngineName = "processes"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.buffer is None, "buffer", self.buffer, "None, as only synchronous rounds are simulated")
        require(self.workers >= 1, "workers", self.workers, "at least 1")
        require(self.engine in get_args(EngineName), "engine", self.engine, f"one of {get_args(EngineName)}")

    @property
    def shape(self) -> FleetShape:
        """What the fleet is drawn from; raises `InvalidValueError`."""
        return FleetShape(self.devices, self.mix, self.link, self.availability, self.period)

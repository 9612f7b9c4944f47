"""What an emulation is asked to do: one frozen value, checked when made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from devices.emulation.datasets import DatasetName
from server.aggregation.buffered import BufferRule
from server.config import Difference, RunConfig
from wire_protocol.errors import require
from wire_protocol.local_training import PLAIN, LocalTraining
from wire_protocol.messages import SelectionPolicy
from wire_protocol.tensor_codec import DownlinkPrecision, Precision

Runtime = Literal["portable", "ort-training"]

DIRICHLET_ALPHA = 0.5
MAX_DEVICES = 500
"""What one process and one broker connection each were measured to carry."""


@dataclass(frozen=True)
class EmulationSettings:
    """`out` is the folder for the results; `data` the file or folder of the data set, None for its default place.

    `alpha` is the Dirichlet concentration of the non-IID split; a data set with a natural split sets `devices` itself.
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
    difference: Difference = RunConfig.difference
    runtime: Runtime = "portable"
    local_steps: int = RunConfig.local_steps
    batch_size: int = RunConfig.batch_size
    learning_rate: float = RunConfig.learning_rate
    noise_stddev: float = RunConfig.noise_stddev
    training: LocalTraining = RunConfig.training
    buffer: BufferRule | None = None
    alpha: float = DIRICHLET_ALPHA

    def __post_init__(self) -> None:
        require(1 <= self.devices <= MAX_DEVICES, "devices", self.devices, f"1 to {MAX_DEVICES}")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        require(self.dataset in get_args(DatasetName), "dataset", self.dataset, f"one of {get_args(DatasetName)}")
        require(self.dataset != "npz" or self.data is not None, "data", self.data, "an .npz file for dataset npz")
        require(self.runtime in get_args(Runtime), "runtime", self.runtime, f"one of {get_args(Runtime)}")
        fits = self.runtime != "ort-training" or self.training == PLAIN
        legal = "plain SGD with runtime ort-training: --optimizer sgd --proximal 0 --clip-gradient 0 --no-scale-kept"
        require(fits, "training", self.training, legal)
        require(not self.out.exists() or self.out.is_dir(), "out", str(self.out), "a folder")

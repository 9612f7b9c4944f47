"""What privacy costs: accuracy of private fleets by epsilon, dense and as sub-models, on Fashion-MNIST.

    python -m benchmarks.private_accuracy --json docs/results/private_accuracy.json

Every device holds an equal share of the 60,000 training images and adds noise of its own; epsilon is that of each
device, by its ledger, over the whole run, at delta 1e-5. `dense` is FedAvg on the full model; `narrow` a dense model
of the sub-models' width; `magnitude` and `random` choose neurons without a look at the data; `fisher, noised scores`
pays for its choice; `fisher, true positions` has noised values at positions that were chosen by true scores, which is
**not private** and stands here to show what the choice itself is worth. Rows are {mode, epsilon, method, private, seed,
accuracy}; rows that a file has already are not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.figures import benchmark_parser, print_table
from benchmarks.in_memory_fleet import Fleet, Method, ServerSide, accuracies
from benchmarks.method_table import read_rows, write_rows
from devices.emulation.datasets import Dataset, load_dataset
from devices.emulation.splits import dirichlet_split
from model_export.export import export_bundle
from server.privacy.calibration import Target, noise_multiplier_for
from server.privacy.schedule import DeviceSchedule, RecordSchedule
from server.server_optimizers.fed_avg import FedAvg
from wire_protocol.local_training import LocalTraining
from wire_protocol.messages import SelectionPolicy
from wire_protocol.privacy import DevicePrivacy, Privacy, RecordPrivacy

DELTA = 1e-5
LAST_ROUNDS = 3
EPSILONS = (1.0, 2.0, 4.0, 8.0)


class TanhCnn(nn.Module):
    """The network of Papernot et al. 2021, "Tempered sigmoid activations for deep learning with differential privacy"."""

    def __init__(self, fraction: float = 1.0) -> None:
        super().__init__()
        first, second, hidden = (max(1, round(fraction * width)) for width in (16, 32, 32))
        self.conv1 = nn.Conv2d(1, first, 8, stride=2, padding=2)
        self.conv2 = nn.Conv2d(first, second, 4, stride=2)
        self.fc1 = nn.Linear(second * 16, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, 10) of images (batch, 1, 28, 28)."""
        maps = torch.max_pool2d(torch.tanh(self.conv1(images)), 2, stride=1)
        maps = torch.max_pool2d(torch.tanh(self.conv2(maps)), 2, stride=1)
        logits: Tensor = self.fc2(torch.tanh(self.fc1(maps.flatten(1))))
        return logits


@dataclass(frozen=True)
class Mode:
    """How a private fleet trains; in a step each of a device's examples takes part at `sampling_rate`."""

    devices: int
    rounds: int
    local_steps: int
    sampling_rate: float
    clip_norm: float
    learning_rate: float
    momentum: float
    keep: float
    resync_every: int

    def privacy(self, epsilon: float, score_noise: float = 0.0) -> Privacy:
        """The noise that all rounds leave within `epsilon`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Records(Mode):
    """Record privacy: DP-SGD on the devices."""

    def privacy(self, epsilon: float, score_noise: float = 0.0) -> Privacy:
        """See `Mode.privacy`."""
        schedule = RecordSchedule(self.rounds, self.local_steps, self.sampling_rate, score_noise, self.resync_every)
        noise = noise_multiplier_for(Target(epsilon, DELTA), schedule)
        return RecordPrivacy(self.clip_norm, noise, self.sampling_rate, score_noise)


@dataclass(frozen=True)
class Devices(Mode):
    """Device privacy: whole updates."""

    def privacy(self, epsilon: float, score_noise: float = 0.0) -> Privacy:
        """See `Mode.privacy`; scores cannot be had."""
        del score_noise
        return DevicePrivacy(self.clip_norm, noise_multiplier_for(Target(epsilon, DELTA), DeviceSchedule(self.rounds)))

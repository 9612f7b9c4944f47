"""Devices with canaries among their records, what they send, and attacks that say which canaries were there.

A canary is a record whose clipped gradient has the full norm and a direction to itself: its one input that is not 0
meets weights that no other record's does (the Dirac canaries of Nasr, Hayes, Steinke et al., 2023, "Tight auditing of
differentially private machine learning", made of data). A device has each of its canaries with probability 1/2. What it
sends is looked at along every canary's direction; there what is seen of one canary does not depend on the others, if
records are drawn and noise is added as docs/privacy.md says. So every canary is a trial of its own.

In device mode a device has one canary and nothing else, or no record at all, and is one trial.

The server is the adversary: it knows all but whether a canary is there, and chose the model and its values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_client.local_update import Choice, LocalWork, train_update
from edge_client.onnx_session import Graph, open_session
from edge_client.privacy.account import Account
from edge_client.privacy.mechanism import Mechanism
from edge_client.privacy.record_training import RecordTraining
from edge_client.training.portable import PortableRuntime
from edge_client.training.runtime import TrainingRuntime
from model_export.export import export_bundle
from wire_protocol.bundle_manifest import PRIVATE_STEP, TRAIN_STEP
from wire_protocol.examples import Examples
from wire_protocol.messages import RoundPlan
from wire_protocol.privacy import Privacy, RecordPrivacy
from wire_protocol.sub_model import full_sub_model, sub_shapes
from wire_protocol.tensor_codec import decode

Array = NDArray[Any]

HEADS = 4
"""Parameters of the model; gradients have equal parts in all."""
QUIET = 55
"""Inputs that no record has: what is sent for their weights is noise alone."""
_LOUD = 10.0
"""An input that makes gradients longer than the clip norm 1."""
_BATCH = 8


class Heads(nn.Module):
    """Logits of two classes, the sum of several linear layers without bias; x is float32 [n, inputs]."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(inputs, 2, bias=False) for _ in range(HEADS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits, [n, 2]."""
        logits: torch.Tensor = self.heads[0](x)
        for head in self.heads[1:]:
            logits = logits + head(x)
        return logits


OpenRuntime = Callable[[Graph, LocalWork], TrainingRuntime]
"""How a device trains in a round."""
Chance = Callable[[], np.random.Generator]
"""What a device's noise and batches of a round come from."""


def as_devices_do(session: Graph, work: LocalWork) -> TrainingRuntime:
    """The device's own training."""
    if isinstance(work.plan.privacy, RecordPrivacy):
        return RecordTraining(session, Mechanism(work.plan.privacy, work.divisor, work.noise))
    return PortableRuntime(session, work.layout)


@dataclass(frozen=True)
class Rounds:
    """Private rounds, each of `local_steps` steps, that are attacked together; the clip norm is 1."""

    privacy: Privacy
    rounds: int
    local_steps: int

    def claimed(self, delta: float) -> float:
        """Epsilon of all of them by the device's account."""
        if isinstance(self.privacy, RecordPrivacy):
            releases = self.privacy.releases(self.local_steps, scores=False)
            return Account().spend("record", self.rounds * releases).epsilon(delta)
        return Account().spend("device", self.rounds * self.privacy.releases()).epsilon(delta)


@dataclass(frozen=True)
class Seen:
    """What rounds show: along the canaries' directions, and how large values without any record are (RMS).

    `along` is float [..., rounds, canaries] and `loudness` [..., rounds], in clip norms, of sums of gradients or of the
    change.
    """

    along: Array
    loudness: Array


class CanaryDevice:
    """A device that may have up to `canaries` canaries, and has one record besides; `folder` is new."""

    _graph, _others, _rate = PRIVATE_STEP, 1, 1e-4

    def __init__(self, folder: Path, canaries: int) -> None:
        self.canaries = canaries
        inputs = canaries + 1 + QUIET
        self._layout = export_bundle(Heads(inputs), (inputs,), folder, name="canaries").layout
        self._session = open_session(folder / self._graph)
        self._choice = Choice(full_sub_model(self._layout))
        self._shapes = sub_shapes(self._layout, self._choice.sub_model.widths)
        self._base = {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}
        self._records = _LOUD * np.eye(canaries + self._others, inputs, dtype=np.float32)

    def seen(self, there: Array, rounds: Rounds, chance: Chance, open_runtime: OpenRuntime = as_devices_do) -> Seen:
        """What the updates show of a device that has the canaries `there`, bool [canaries]."""
        x = self._records[np.concatenate([there, np.ones(self._others, bool)])]
        examples = Examples(x, np.zeros(len(x), np.int64))
        sums = np.stack([self._sent(examples, rounds, n + 1, chance(), open_runtime) for n in range(rounds.rounds)])
        along = (sums[:, :, 1] - sums[:, :, 0]).sum(1) / np.sqrt(2 * HEADS)
        quiet = sums[..., self.canaries + 1 :]
        return Seen(along[:, : self.canaries], np.sqrt(np.square(quiet).mean((1, 2, 3))))

    def _sent(
        self, examples: Examples, rounds: Rounds, number: int, chance: np.random.Generator, open_runtime: OpenRuntime
    ) -> Array:
        """The update of a round as the server decodes it, upwards along gradients: float64 [heads, classes, inputs]."""
        plan = RoundPlan(
            run="audit", round=number, resync_round=number, model_version=number, bundle="b" * 64, model="a" * 64,
            deadline=0.0, local_steps=rounds.local_steps, batch_size=_BATCH, learning_rate=self._rate, keep=1.0,
            selection="full", precision="float32", privacy=rounds.privacy,
        )  # fmt: skip
        work = LocalWork(plan, self._layout, examples, chance, noise=chance)
        update = train_update(work, self._choice, self._base, open_runtime(self._session, work)).update
        values = decode(update.values, self._shapes, update.codec)
        of_sums = work.divisor / plan.learning_rate if isinstance(rounds.privacy, RecordPrivacy) else 1.0
        return np.stack([*values.values()]).astype(np.float64) * -of_sums


class WholeDevice(CanaryDevice):
    """A device in device mode that has a canary and no other record, or none at all."""

    _graph, _others, _rate = TRAIN_STEP, 0, 1.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, canaries=1)


@dataclass(frozen=True)
class Trials:
    """What many devices showed, and which canaries were `there`, bool [devices, canaries]."""

    there: Array
    seen: Seen


def try_devices(
    device: CanaryDevice, count: int, rounds: Rounds, chance: Chance, open_runtime: OpenRuntime = as_devices_do
) -> Trials:
    """`count` devices, one after the other, each with canaries of its own."""
    there = chance().random((count, device.canaries)) < 0.5
    found = [device.seen(one, rounds, chance, open_runtime) for one in there]
    seen = Seen(np.stack([one.along for one in found]), np.stack([one.loudness for one in found]))
    return Trials(there, seen)


def attacks(seen: Seen, accounted: Rounds) -> Mapping[str, Array]:
    """Scores [devices, canaries], high where a canary seems to be there.

    `likelihood` is the best attack on what is accounted (Neyman and Pearson, 1933); `spread` sees through noise that is
    the same in several rounds, and `quiet` is for sums divided by what depends on how many records were drawn.
    """
    quiet = -np.log(seen.loudness.min(1, keepdims=True) + np.finfo(float).tiny)
    return {
        "likelihood": _log_likelihood_ratio(seen.along, accounted).sum(1),
        "spread": np.ptp(seen.along, axis=1),
        "quiet": np.broadcast_to(quiet, seen.along[:, 0].shape),
    }


def _log_likelihood_ratio(along: Array, accounted: Rounds) -> Array:
    """Of there against not there, of one round: there it is drawn in k of the steps, k binomial."""
    by_record = isinstance(accounted.privacy, RecordPrivacy)
    steps, q = (accounted.local_steps, accounted.privacy.sampling_rate) if by_record else (1, 1.0)
    variance = steps * accounted.privacy.noise_multiplier**2
    terms = [
        np.log(comb(steps, k) * q**k * (1 - q) ** (steps - k)) + (k * along - k * k / 2) / variance
        for k in range(steps + 1)
        if q < 1 or k == steps
    ]
    return np.asarray(np.logaddexp.reduce(terms))

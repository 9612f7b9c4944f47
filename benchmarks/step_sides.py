"""One training step of a model, taken by each side of the comparison: a call takes the step and returns its seconds.

Seconds are processor time of the whole process. With one thread that never waits it is wall time on an idle machine,
and on a busy one it leaves out the time that other processes took.

Every side trains the same function from the same weights on the same batch with plain SGD, one thread. The portable
runtime, onnxruntime-training and the scorer are those of a device; the clock runs while they work on the batch, not
while they copy parameters in and out, which a device does once a round. Opacus puts its own layers in place of some, as
its validator does: GroupNorm for BatchNorm, recurrent layers and attention of its own.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import torch
from torch import Tensor, nn

from edge_client.config import RuntimeName
from edge_client.errors import TrainingError
from edge_client.fisher import FisherScorer
from edge_client.onnx_session import BoundRun, batch_feeds, open_session
from edge_client.training.choose import RuntimeSpec, open_runtime
from wire_protocol.bundle_manifest import PRIVATE_STEP, BundleManifest, LossName
from wire_protocol.examples import Examples
from wire_protocol.sub_model import Arrays, SubModel, gather, widths_at

Step = Callable[[], float]
TorchLoss = Callable[[Tensor, Tensor], Tensor]

TORCH_LOSSES: dict[LossName, TorchLoss] = {
    "cross-entropy": nn.functional.cross_entropy,
    "mse": nn.functional.mse_loss,
    "bce": nn.functional.binary_cross_entropy_with_logits,
}
LEARNING_RATE = 0.01
CLIP_NORM = 1.0


@dataclass(frozen=True)
class Subject:
    """A zoo model that all sides train, its bundle, its parameters and one batch.

    `source` is the module as it was built and `module` as it was exported: the same unless it has BatchNorm. `words` is
    the size of its vocabulary, None where the inputs are numbers.
    """

    name: str
    source: nn.Module
    module: nn.Module
    bundle: Path
    manifest: BundleManifest
    parameters: Arrays
    words: int | None
    batch: Examples


def sides(subject: Subject) -> dict[str, Step]:
    """Every side that this environment can run, by name."""
    layout = subject.manifest.layout
    scorer = FisherScorer.open(subject.bundle, layout)
    found: dict[str, Step | None] = {
        "torch": _timed(_torch_step(subject)),
        "portable": _portable(subject, 1.0),
        "private": _timed(_private_step(subject)),
        "fisher": _timed(lambda: scorer.scores(subject.parameters, [subject.batch])),
        "half": _portable(subject, 0.5),
        "quarter": _portable(subject, 0.25),
        "ort_training": _ort_training(subject),
        "opacus": _opacus_step(subject),
    }
    return {name: step for name, step in found.items() if step is not None}


def interleave(steps: dict[str, Step], rounds: int, warm_up: int) -> dict[str, float]:
    """Median milliseconds a step of each side.

    In every round each side takes two steps and the second one counts: the first brings back what the others have
    driven from the caches, as a device trains nothing else in between.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(warm_up + rounds):
        for name, step in steps.items():
            step()
            taken = step()
            if number >= warm_up:
                seconds[name].append(taken)
    return {name: 1e3 * median(values) for name, values in seconds.items()}


def _torch_step(subject: Subject) -> Callable[[], float]:
    module = deepcopy(subject.module)
    return _sgd(subject, module, torch.optim.SGD(module.parameters(), lr=LEARNING_RATE))


def _opacus_step(subject: Subject) -> Step | None:
    """DP-SGD of Opacus in its default mode and without noise, as `private_step` adds none; None without Opacus."""
    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    try:
        opacus = importlib.import_module("opacus")
        optimizers = importlib.import_module("opacus.optimizers")
        validators = importlib.import_module("opacus.validators")
    except ImportError:
        return None
    module = opacus.GradSampleModule(validators.ModuleValidator.fix(deepcopy(subject.source)))
    optimizer = optimizers.DPOptimizer(
        torch.optim.SGD(module.parameters(), lr=LEARNING_RATE),
        noise_multiplier=0.0,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=len(subject.batch),
    )
    return _timed(_sgd(subject, module, optimizer))


def _sgd(subject: Subject, module: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], float]:
    """A step that returns the loss, which a device reports too."""
    x, y = torch.from_numpy(subject.batch.x), torch.from_numpy(subject.batch.y)
    loss_of = TORCH_LOSSES[subject.manifest.loss]

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of(module(x), y)
        torch.autograd.backward(loss)
        optimizer.step()
        return float(loss.item())

    return step


def _portable(subject: Subject, keep: float) -> Step:
    layout = subject.manifest.layout
    widths = widths_at(layout, keep)
    sub_model = SubModel({group: np.arange(width) for group, width in widths.items()})
    return _on_runtime("portable", subject, gather(layout, sub_model, subject.parameters))


def _ort_training(subject: Subject) -> Step | None:
    """None where the bundle has no artifacts or onnxruntime-training cannot load them."""
    if not subject.manifest.rungs:
        return None
    step = _on_runtime("ort-training", subject, subject.parameters)
    try:
        step()
    except TrainingError:
        return None
    return step


def _on_runtime(name: RuntimeName, subject: Subject, parameters: Arrays) -> Step:
    runtime = open_runtime(RuntimeSpec(name, subject.bundle, subject.manifest))

    def step() -> float:
        seconds: list[float] = []
        runtime.train(parameters, _clocked(subject.batch, seconds), LEARNING_RATE)
        return seconds[0]

    return step


def _clocked(batch: Examples, seconds: list[float]) -> Iterator[Examples]:
    """One batch; the time until the runtime asks for the next one is appended to `seconds`."""
    start = process_time()
    yield batch
    seconds.append(process_time() - start)


def _private_step(subject: Subject) -> Callable[[], None]:
    """As the portable runtime steps, on the graph of clipped sums."""
    trained = {name: array.copy() for name, array in subject.parameters.items()}
    gradients = {f"grad.{name}": np.empty_like(array) for name, array in trained.items()}
    bound = BoundRun(
        open_session(subject.bundle / PRIVATE_STEP),
        {**trained, "clip_norm": np.array(CLIP_NORM, dtype=np.float32)},
        {"loss": np.empty((), dtype=np.float32), **gradients},
    )
    rate = np.float32(LEARNING_RATE / len(subject.batch))

    def step() -> None:
        bound.run(batch_feeds(subject.batch))
        for name, gradient in gradients.items():
            np.multiply(gradient, rate, out=gradient)
            trained[name.removeprefix("grad.")] -= gradient

    return step


def _timed(work: Callable[[], object]) -> Step:
    def step() -> float:
        start = process_time()
        work()
        return process_time() - start

    return step

"""Do torch, the portable graphs and onnxruntime-training give the same numbers? On random data, for a model at hand.

Torch is the oracle: losses and gradients by autograd, example by example, so that clipped sums and Fisher scores follow
by their definitions. Errors are relative to the largest entry of a tensor; a tensor that is 0 but for rounding counts
relative to a thousandth of the largest entry of all tensors of its kind.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from torch import Tensor, nn
from torch.func import functional_call

from model_export.autodiff.registry import attribute
from model_export.forward_graph import ForwardGraph
from model_export.losses import CrossEntropy, Loss
from model_export.module_rewrites.functions import WithoutDropout
from model_export.narrow_module import narrowed
from model_export.torch_trace import INPUT
from model_export.training_graphs import fisher, private_step, train_step
from wire_protocol.bundle_manifest import CHECKPOINT, TRAINING_MODEL, Rung
from wire_protocol.layout import Layout
from wire_protocol.sub_model import SubModel, full_sub_model, gather, sub_shape

TOLERANCE = 1e-4
NEGLIGIBLE = 1e-3
EXAMPLES = 8
COLUMNS = ("loss", "gradients", "clipped sums", "Fisher scores")
NOT_CLIPPED = np.array(np.inf, dtype=np.float32)

Arrays = dict[str, NDArray[Any]]

_ERRORS_ONLY = 3
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)


@dataclass(frozen=True)
class Subject:
    """A model as it was traced, what became of it, and the loss that it is trained with."""

    module: nn.Module
    graph: ForwardGraph
    layout: Layout
    loss: Loss


@dataclass(frozen=True)
class Comparison:
    """The worst relative error of a runtime by quantity; or why torch or the runtime could not answer."""

    runtime: str
    sub_model: str
    errors: Mapping[str, float]
    unanswered: str = ""
    failed: bool = False

    @property
    def agrees(self) -> bool:
        """Whether the runtime ran and no error is above `TOLERANCE` or NaN."""
        return not self.failed and all(error <= TOLERANCE for error in self.errors.values())


def check_parity(subject: Subject, bundle: Path, rungs: Iterable[Rung], seed: int = 0) -> list[Comparison]:
    """Compare the portable graphs, for all neurons and a random half, and the rungs in `bundle` where they can run."""
    generator = np.random.default_rng(seed)
    halves = {group.name: max(1, group.size // 2) for group in subject.layout.groups}
    portable = _Portable(subject)
    cases: list[tuple[Any, str, SubModel]] = [(portable, "all neurons", full_sub_model(subject.layout))]
    if halves:
        cases.append((portable, "a random half", _draw(subject.layout, halves, generator)))
    for rung in rungs if _can_train() else ():
        artifacts = _Artifacts(subject, bundle / rung.folder)
        cases.append((artifacts, rung.folder, _draw(subject.layout, rung.widths, generator)))
    return [_compare(subject, *case, generator) for case in cases]


def _compare(
    subject: Subject, runtime: Any, label: str, sub_model: SubModel, generator: np.random.Generator
) -> Comparison:
    parameters = gather(subject.layout, sub_model, subject.graph.parameters)
    feeds = _random_batch(subject, generator)
    try:
        expected = _torch_answers(subject, sub_model, parameters, feeds)
    except (RuntimeError, ValueError) as error:
        return Comparison(
            runtime.name, label, {}, f"torch cannot run the module with these parameters: {_first(error)}"
        )
    try:
        found = runtime.answers({**feeds, **parameters}, expected["bound"]["clip_norm"])
    except Exception as error:  # onnxruntime's own exceptions have no common parent
        return Comparison(runtime.name, label, {}, f"the runtime cannot run its graphs: {_first(error)}", failed=True)
    return Comparison(runtime.name, label, {kind: _error(found[kind], expected[kind]) for kind in found})


def _first(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class _Portable:
    """The portable graphs in whatever onnxruntime is installed."""

    name = "portable"

    def __init__(self, subject: Subject) -> None:
        parts = (subject.graph, subject.layout, subject.loss)
        self._step, self._private = _session(train_step(*parts)), _session(private_step(*parts))
        self._fisher = _session(fisher(*parts)) if subject.layout.groups else None
        self._parameters = [parameter.name for parameter in subject.layout.parameters]

    def answers(self, feeds: Arrays, clip_norm: NDArray[Any]) -> dict[str, Arrays]:
        step, private = _run(self._step, feeds), _run(self._private, {**feeds, "clip_norm": clip_norm})
        scores = _run(self._fisher, {**feeds, "clip_norm": NOT_CLIPPED}) if self._fisher else {}
        return {
            "loss": {"loss": step["loss"]},
            "gradients": {name: step[f"grad.{name}"] for name in self._parameters},
            "clipped sums": {name: private[f"grad.{name}"] for name in self._parameters},
            "Fisher scores": {name.removeprefix("fisher."): score for name, score in scores.items()},
        }


class _Artifacts:
    """One rung in onnxruntime-training."""

    name = "ort-training"

    def __init__(self, subject: Subject, folder: Path) -> None:
        self._api = importlib.import_module("onnxruntime.training.api")
        self._runtime = importlib.import_module("onnxruntime")
        self._folder = folder
        self._parameters = [parameter.name for parameter in subject.layout.parameters]

    def answers(self, feeds: Arrays, clip_norm: NDArray[Any]) -> dict[str, Arrays]:
        del clip_norm
        state = self._api.CheckpointState.load_checkpoint(self._folder / CHECKPOINT)
        options = _options(self._runtime)
        module = self._api.Module(self._folder / TRAINING_MODEL, state, session_options=options)
        flat = np.concatenate([np.ravel(feeds[name]) for name in self._parameters])
        buffer = self._runtime.OrtValue.ortvalue_from_numpy(flat)
        module.copy_buffer_to_parameters(buffer._ortvalue, trainable_only=False)
        module.train()
        loss = module(feeds["batch"], feeds["targets"], feeds["example_weights"])
        gradients = {name: np.array(state.parameters[name].grad) for name in self._parameters}
        return {"loss": {"loss": np.asarray(loss)}, "gradients": gradients}


def _torch_answers(subject: Subject, sub_model: SubModel, parameters: Arrays, feeds: Arrays) -> dict[str, Arrays]:
    """What each quantity should be; `bound` holds the median norm, which the clipped sums are clipped to."""
    losses, gradients = _example_gradients(subject, parameters, feeds)
    weights = feeds["example_weights"].astype(np.float64)
    squares = [(part.reshape(len(part), -1) ** 2).sum(1) for part in gradients.values()]
    norms = np.sqrt(np.sum(squares, axis=0)) * weights
    clip_norm = np.array(np.median(norms[weights > 0]), dtype=np.float32)
    factors = weights * np.minimum(1, clip_norm / np.maximum(norms, 1e-30))
    scores: Arrays = {}
    for parameter in subject.layout.parameters:
        own = np.tensordot(weights**2, gradients[parameter.name] ** 2, axes=1)
        for cut in parameter.cuts:
            if cut.produces:
                entries = sub_shape(parameter, sub_model.widths)[cut.axis]
                along = np.moveaxis(own, cut.axis, 0).reshape(entries, -1).sum(axis=1)
                score = along.reshape(cut.repeat, -1, cut.block).sum(axis=(0, 2))
                scores[cut.group] = scores.get(cut.group, 0.0) + score
    mean = weights / weights.sum()
    return {
        "bound": {"clip_norm": clip_norm},
        "loss": {"loss": np.asarray(mean @ losses)},
        "gradients": {name: np.tensordot(mean, part, axes=1) for name, part in gradients.items()},
        "clipped sums": {name: np.tensordot(factors, part, axes=1) for name, part in gradients.items()},
        "Fisher scores": scores,
    }


def _example_gradients(subject: Subject, parameters: Arrays, feeds: Arrays) -> tuple[NDArray[Any], Arrays]:
    """Loss of each example (examples,), and its gradient by each parameter (examples, *shape), float64."""
    tensors = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in parameters.items()}
    module = narrowed(subject.module, tensors).train()
    losses, gradients = [], []
    for example, target in zip(torch.from_numpy(feeds["batch"]), torch.from_numpy(feeds["targets"]), strict=True):
        with WithoutDropout():
            output = functional_call(module, tensors, (example[None],))
        loss = _torch_loss(subject.loss, output, target[None])
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, list(tensors.values()), materialize_grads=True))
    by_name = {
        name: np.stack([parts[at].numpy() for parts in gradients]).astype(np.float64) for at, name in enumerate(tensors)
    }
    return np.asarray(losses), by_name


def _torch_loss(loss: Loss, output: Tensor, targets: Tensor) -> Tensor:
    """The loss of a batch of one example."""
    if isinstance(loss, CrossEntropy):
        weights = None if loss.class_weights is None else torch.tensor(loss.class_weights)
        return nn.functional.cross_entropy(output, targets, weights, reduction="sum")
    if loss.name == "mse":
        return nn.functional.mse_loss(output, targets)
    return nn.functional.binary_cross_entropy_with_logits(output, targets)


def _random_batch(subject: Subject, generator: np.random.Generator) -> Arrays:
    """Inputs of a training graph; the last example is padding."""
    graph, loss = subject.graph, subject.loss
    shape, target_shape = (EXAMPLES, *graph.input_shape), (EXAMPLES, *loss.target_shape(graph.output_shape))
    rows = smallest_table(graph)
    batch = generator.normal(size=shape) if rows is None else generator.integers(0, rows, shape)
    if loss.name == "cross-entropy":
        targets: NDArray[Any] = generator.integers(0, graph.output_shape[0], target_shape)
    else:
        targets = generator.random(target_shape, dtype=np.float32)
    weights = np.ones(EXAMPLES, dtype=np.float32)
    weights[-1] = 0
    return {"batch": batch.astype(np.float32), "targets": targets, "example_weights": weights}


def smallest_table(graph: ForwardGraph) -> int | None:
    """Rows of the smallest table that the inputs are indices into, None where they are numbers."""
    casts = {n.output[0] for n in graph.nodes if n.op_type == "Cast" and attribute(n, "to", 0) in _INTEGERS}
    indices = {n.output[0] for n in graph.nodes if n.output[0] in casts and n.input[0] == INPUT}
    tables = [n.input[0] for n in graph.nodes if n.op_type == "Gather" and n.input[1] in indices]
    return min((graph.shapes[table][0] for table in tables), default=None)


def _draw(layout: Layout, widths: Mapping[str, int], generator: np.random.Generator) -> SubModel:
    sizes = layout.group_sizes
    return SubModel({name: np.sort(generator.permutation(sizes[name])[:width]) for name, width in widths.items()})


def _error(found: Arrays, expected: Arrays) -> float:
    """Worst relative error over tensors; infinite where shapes differ."""
    largest = max((float(np.abs(array).max()) for array in expected.values()), default=0.0)
    worst = 0.0
    for name, array in expected.items():
        if found[name].shape != array.shape:
            return float("inf")
        scale = max(float(np.abs(array).max()), NEGLIGIBLE * largest, np.finfo(np.float32).tiny)
        worst = float(np.maximum(worst, np.abs(found[name] - array).max() / scale))
    return worst


def _can_train() -> bool:
    try:
        importlib.import_module("onnxruntime.training.api")
    except ImportError:
        return False
    return True


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    return options


def _session(model: ModelProto) -> Any:
    runtime = importlib.import_module("onnxruntime")
    return runtime.InferenceSession(model.SerializeToString(), _options(runtime), providers=["CPUExecutionProvider"])


def _run(session: Any, feeds: Arrays) -> Arrays:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))

"""Local SGD on onnxruntime-training: gradients and steps are taken inside onnxruntime, by artifacts made for a width.

Importing this module raises `ImportError` where onnxruntime has no training API; it loads neither torch nor onnx.
`model_export.ort_artifacts` wrote the rungs: checkpoints without values, parameters in layout order. The bundle's files
are only read. Written for onnxruntime-training 1.19.2, the last release.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.errors import TrainingError
from edge_client.onnxruntime_import import import_onnxruntime, import_training_api
from edge_client.training.choose import rung_for
from edge_client.training.runtime import PLAIN_STEPS, StepRule, TrainingResult
from wire_protocol.bundle_manifest import CHECKPOINT, OPTIMIZER_MODEL, TRAINING_MODEL, BundleManifest, Rung
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout, Parameter
from wire_protocol.sub_model import Arrays, sub_shapes

_onnxruntime = import_onnxruntime()
_api = import_training_api()


_FATAL_ONLY = 4


@dataclass(frozen=True)
class _Session:
    """A loaded rung; it holds parameters and gradients natively, which every training sets anew.

    `shapes` are those of its parameters, in the order of its flat parameter buffer.
    """

    shapes: Mapping[str, tuple[int, ...]]
    module: Any
    optimizer: Any


class OrtTrainingRuntime:
    """A `TrainingRuntime` for the widths of the bundle's rungs; for one thread at a time."""

    name = "ort-training"
    privacy = None

    def __init__(self, bundle_dir: Path, manifest: BundleManifest, threads: int) -> None:
        self._bundle_dir = bundle_dir
        self._manifest = manifest
        self._threads = threads
        self._sessions: dict[str, _Session] = {}

    @classmethod
    def open(cls, bundle_dir: Path, manifest: BundleManifest, threads: int) -> OrtTrainingRuntime:
        """Use the rungs in `bundle_dir`, each loaded for `threads` processor threads when it is first trained."""
        return cls(bundle_dir, manifest, threads)

    def train(
        self, parameters: Arrays, batches: Iterable[Examples], learning_rate: float, rule: StepRule = PLAIN_STEPS
    ) -> TrainingResult:
        """See `TrainingRuntime.train`; takes plain steps only."""
        if not rule.is_plain:
            raise TrainingError(
                'runtime "ort-training" takes plain SGD only (optimizer "sgd", proximal 0, clip_gradient 0, '
                f'hidden_gain 1), got {rule.training}; set runtime = "auto" or "portable"'
            )
        session = self._ready_session(parameters)
        session.optimizer.set_learning_rate(float(learning_rate))
        losses: list[float] = []
        examples = 0
        for batch in batches:
            losses.append(self._step(session, batch))
            examples += len(batch)
        if not losses:
            raise TrainingError("there is no batch to train on, expected at least one")
        return TrainingResult(_read(session), float(np.mean(losses)), examples)

    def _step(self, session: _Session, batch: Examples) -> float:
        if self._manifest.loss == "cross-entropy":
            _require_labels(batch, self._manifest.classes)
        weights = np.ones(len(batch), dtype=np.float32)
        try:
            loss = float(session.module(batch.x, batch.y, weights))
        except Exception as error:
            raise TrainingError(f"onnxruntime-training could not run the graph: {error}") from error
        if not isfinite(loss):
            raise TrainingError(f"training diverged: the loss is {loss}; a lower learning rate may help")
        session.optimizer.step()
        session.module.lazy_reset_grad()
        return loss

    def _ready_session(self, parameters: Arrays) -> _Session:
        """The session for these parameters' widths, holding these parameters and no gradients."""
        layout = self._manifest.layout
        widths = _widths(layout, parameters)
        rung = rung_for(self._manifest, widths)
        flat = np.concatenate([np.ravel(parameters[name]) for name in sub_shapes(layout, widths)])
        session = self._sessions.get(rung.folder)
        if session is None:
            session = self._sessions[rung.folder] = self._load(rung, flat)
        else:
            _set_parameters(session.module, flat)
        session.module.lazy_reset_grad()
        return session

    def _load(self, rung: Rung, flat: NDArray[Any]) -> _Session:
        folder = self._bundle_dir / rung.folder
        options = _onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _FATAL_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            state = _api.CheckpointState.load_checkpoint(folder / CHECKPOINT)
            module = _api.Module(folder / TRAINING_MODEL, state, session_options=options)
            # An optimizer made while the checkpoint is still without values crashes the process when it is used.
            _set_parameters(module, flat)
            optimizer = _api.Optimizer(folder / OPTIMIZER_MODEL, module)
        except Exception as error:
            raise TrainingError(f"{rung.folder} cannot be loaded by onnxruntime-training: {error}") from error
        return _Session(sub_shapes(self._manifest.layout, rung.widths), module, optimizer)


def _set_parameters(module: Any, flat: NDArray[Any]) -> None:
    buffer = _onnxruntime.OrtValue.ortvalue_from_numpy(flat.astype(np.float32, copy=False))
    # Module.copy_buffer_to_parameters takes the native value, not the OrtValue that its signature names.
    module.copy_buffer_to_parameters(buffer._ortvalue, trainable_only=False)


def _read(session: _Session) -> dict[str, NDArray[Any]]:
    buffer = session.module.get_contiguous_parameters(trainable_only=False)
    flat = np.array(buffer.numpy())
    ends = np.cumsum([prod(shape) for shape in session.shapes.values()])
    parts = np.split(flat, ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(session.shapes.items(), parts, strict=True)}


def _widths(layout: Layout, parameters: Arrays) -> dict[str, int]:
    """Neurons a group of the sub-model that has these parameters; raises `TrainingError` where none has."""
    widths: dict[str, int] = {}
    for parameter in layout.parameters:
        shape = _shape_of(parameter, parameters)
        widths.update({cut.group: shape[cut.axis] // cut.entries for cut in parameter.cuts})
    for name, shape in sub_shapes(layout, widths).items():
        if parameters[name].shape != shape:
            raise TrainingError(f"{name} must have shape {shape} at widths {widths}, got {parameters[name].shape}")
    return widths


def _shape_of(parameter: Parameter, parameters: Arrays) -> tuple[int, ...]:
    array = parameters.get(parameter.name)
    if array is None:
        raise TrainingError(f"parameters must hold {parameter.name}, got {sorted(parameters)}")
    if array.ndim != len(parameter.shape):
        raise TrainingError(f"{parameter.name} must have {len(parameter.shape)} axes, got shape {array.shape}")
    return tuple(array.shape)


def _require_labels(batch: Examples, classes: int) -> None:
    """onnxruntime's loss reads memory past the logits for a label out of range, so that none may reach it."""
    if len(batch) and not 0 <= int(batch.y.min()) <= int(batch.y.max()) < classes:
        labels = f"{int(batch.y.min())} to {int(batch.y.max())}"
        raise TrainingError(f"labels must be from 0 to {classes - 1}, got {labels}")

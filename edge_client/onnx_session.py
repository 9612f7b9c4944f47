"""How a device runs an ONNX graph: stock onnxruntime on the CPU, few threads that sleep when idle, little memory.

Measured on a LeNet of 1 M parameters, batch 32, one thread (resident memory, milliseconds a step): memory arena on and
memory patterns off 87 MB, 14.4; both on 91 MB, 15.1; arena off, patterns off 105 MB, 15.0; arena off, patterns on
111 MB, 14.8. So the arena stays on.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.errors import TrainingError
from edge_client.onnxruntime_import import import_onnxruntime
from wire_protocol.examples import Examples
from wire_protocol.sub_model import Arrays

_onnxruntime = import_onnxruntime()

_FATAL_ONLY = 4
_NOTHING: Arrays = MappingProxyType({})

Session = Any
"""An `onnxruntime.InferenceSession`, which has no types."""


class BoundRun:
    """A session that reads and writes the same arrays in every run, beside inputs that differ.

    The arrays are C-contiguous and may change between runs. Against `run` this saves what making and copying the
    outputs costs: 10 % of a step of the autoencoder and of the multilayer perceptron.
    """

    def __init__(self, session: Session, inputs: Arrays, outputs: Arrays) -> None:
        self._session = session
        self._kept = [*inputs.values(), *outputs.values()]
        self._binding = session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._bind_outputs(outputs)

    def _bind_outputs(self, outputs: Arrays) -> None:
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def run(self, inputs: Arrays, outputs: Arrays = _NOTHING) -> None:
        """Run the graph on these inputs and the bound ones, and write these outputs beside the bound ones.

        Raises `TrainingError` when onnxruntime fails.
        """
        try:
            for name, array in inputs.items():
                self._binding.bind_cpu_input(name, array)
            self._bind_outputs(outputs)
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise TrainingError(f"onnxruntime could not run the graph: {error}") from error


def open_session(path: Path, threads: int) -> Session:
    """Load a graph for `threads` processor threads; raises `TrainingError` when onnxruntime refuses it."""
    options = _onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = _onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL_ONLY
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return _onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        version = _onnxruntime.__version__
        raise TrainingError(f"{path.name} cannot be loaded by onnxruntime {version}: {error}") from error


def feeds(parameters: Arrays, batch: Examples) -> dict[str, NDArray[Any]]:
    """Inputs of a bundle's training graphs: the batch, every example with weight 1, and the parameters."""
    return {**batch_feeds(batch), **parameters}


def batch_feeds(batch: Examples) -> dict[str, NDArray[Any]]:
    """`feeds` without parameters."""
    return {"batch": batch.x, "targets": batch.y, "example_weights": np.ones(len(batch), dtype=np.float32)}


def run(session: Session, outputs: list[str], inputs: Arrays) -> list[NDArray[Any]]:
    """Run a graph; raises `TrainingError` when onnxruntime fails."""
    try:
        return list(session.run(outputs, dict(inputs)))
    except Exception as error:
        raise TrainingError(f"onnxruntime could not run the graph: {error}") from error

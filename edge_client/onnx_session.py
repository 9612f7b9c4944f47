"""How a device runs an ONNX graph: on the CPU, few threads that sleep when idle, little memory; on a GPU where asked.

Measured on a LeNet of 1 M parameters, batch 32, one thread (resident memory, milliseconds a step): memory arena on and
memory patterns off 87 MB, 14.4; both on 91 MB, 15.1; arena off, patterns off 105 MB, 15.0; arena off, patterns on
111 MB, 14.8. So the arena stays on.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.accelerator import CheckedSession, Session, open_on
from edge_client.errors import TrainingError
from edge_client.onnxruntime_import import import_onnxruntime
from edge_client.processors import ONE_THREAD, Processors
from wire_protocol.examples import Examples
from wire_protocol.sub_model import Arrays

_onnxruntime = import_onnxruntime()

_FATAL_ONLY = 4
_NOTHING: Arrays = MappingProxyType({})

Graph = Session | CheckedSession
"""What `open_session` gives."""


class BoundRun:
    """A graph that reads and writes the same arrays in every run, beside inputs that differ.

    The arrays are C-contiguous and may change between runs. Against `run` this saves what making and copying the
    outputs costs: 10 % of a step of the autoencoder and of the multilayer perceptron.
    """

    def __init__(self, graph: Graph, inputs: Arrays, outputs: Arrays) -> None:
        self._graph = graph
        self._inputs, self._outputs = inputs, outputs
        self._bound: _Bound | None = None

    def run(self, inputs: Arrays, outputs: Arrays = _NOTHING) -> None:
        """Run the graph on these inputs and the bound ones, and write these outputs beside the bound ones.

        Raises `TrainingError` when onnxruntime fails.
        """
        if self._bound is None:
            self._bound = _Bound(_session(self._graph, {**self._inputs, **inputs}), self._inputs, self._outputs)
        try:
            self._bound.run(inputs, outputs)
        except TrainingError as error:
            if provider_of(self._graph) == "cpu":
                raise
            self._bound = _Bound(self._graph.give_up(str(error)), self._inputs, self._outputs)
            self._bound.run(inputs, outputs)


class _Bound:
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

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        try:
            for name, array in inputs.items():
                self._binding.bind_cpu_input(name, array)
            self._bind_outputs(outputs)
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise _failed(error) from error


def open_session(path: Path, processors: Processors = ONE_THREAD) -> Graph:
    """Load a graph; raises `TrainingError` when onnxruntime refuses it on the processor."""
    here = partial(_open_here, path, processors)
    if processors.provider == "cpu":
        return here()
    there = partial(open_on, _onnxruntime, path, _options(processors), processors.provider)
    return CheckedSession(processors.provider, there, here)


def provider_of(graph: Graph) -> str:
    """What a graph runs on, as far as is known: the owner's word for it."""
    return graph.provider if isinstance(graph, CheckedSession) else "cpu"


def _open_here(path: Path, processors: Processors) -> Session:
    try:
        return _onnxruntime.InferenceSession(str(path), _options(processors), providers=["CPUExecutionProvider"])
    except Exception as error:
        version = _onnxruntime.__version__
        raise TrainingError(f"{path.name} cannot be loaded by onnxruntime {version}: {error}") from error


def _options(processors: Processors) -> Any:
    options = _onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors.threads
    options.inter_op_num_threads = 1
    options.execution_mode = _onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _FATAL_ONLY
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    bound = processors.cores[1 : processors.threads]
    if bound:  # the first thread is the caller's own; onnxruntime counts processors from 1
        numbers = ";".join(str(core + 1) for core in bound)
        options.add_session_config_entry("session.intra_op_thread_affinities", numbers)
    return options


def _session(graph: Graph, inputs: Arrays) -> Session:
    if not isinstance(graph, CheckedSession):
        return graph
    try:
        return graph.session(inputs)
    except Exception as error:
        raise _failed(error) from error


def _failed(error: Exception) -> TrainingError:
    return TrainingError(f"onnxruntime could not run the graph: {error}")


def feeds(parameters: Arrays, batch: Examples) -> dict[str, NDArray[Any]]:
    """Inputs of a bundle's training graphs: the batch, every example with weight 1, and the parameters."""
    return {**batch_feeds(batch), **parameters}


def batch_feeds(batch: Examples) -> dict[str, NDArray[Any]]:
    """`feeds` without parameters."""
    return {"batch": batch.x, "targets": batch.y, "example_weights": np.ones(len(batch), dtype=np.float32)}


def run(graph: Graph, outputs: list[str], inputs: Arrays) -> list[NDArray[Any]]:
    """Run a graph; raises `TrainingError` when onnxruntime fails."""
    session = _session(graph, inputs)
    try:
        return list(session.run(outputs, dict(inputs)))
    except Exception as error:
        if provider_of(graph) == "cpu":
            raise _failed(error) from error
        return run(graph.give_up(str(error)), outputs, inputs)

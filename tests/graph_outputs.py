"""An ONNX graph on this environment's onnxruntime: in one thread, as starting a pool costs more than a small graph."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import ModelProto

Arrays = dict[str, np.ndarray]


def open_graph(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def outputs_of(session: onnxruntime.InferenceSession, feeds: Arrays) -> Arrays:
    """Outputs by name; `feeds` may hold more than the graph takes."""
    names = [output.name for output in session.get_outputs()]
    taken = {value.name: feeds[value.name] for value in session.get_inputs()}
    return dict(zip(names, session.run(names, taken), strict=True))


def run(model: ModelProto, feeds: Arrays) -> Arrays:
    return outputs_of(open_graph(model), feeds)

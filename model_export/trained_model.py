"""What is left when a run is over: the trained model for any ONNX runtime, and its weights for PyTorch.

Needs no torch, so that a server can write it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from wire_protocol.bundle_manifest import PREDICT
from wire_protocol.sub_model import Arrays

TRAINED_WEIGHTS = "model.safetensors"


def predict_model(bundle: Path, parameters: Arrays) -> bytes:
    """The bundle's inference graph with these float32 parameters (full shapes) in place of the initial ones."""
    import onnx  # noqa: PLC0415 - half a second, which a server can spare until its run ends

    model = onnx.load_model(bundle / PREDICT)
    for tensor in model.graph.initializer:
        if tensor.name in parameters:
            tensor.CopyFrom(onnx.numpy_helper.from_array(parameters[tensor.name], tensor.name))
    return bytes(model.SerializeToString())


def trained_files(bundle: Path, parameters: Arrays) -> dict[str, bytes]:
    """Content of `predict.onnx` and `model.safetensors` by file name."""
    weights = save({name: np.ascontiguousarray(array) for name, array in parameters.items()})
    return {PREDICT: predict_model(bundle, parameters), TRAINED_WEIGHTS: weights}

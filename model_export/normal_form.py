"""Passes that bring a traced graph into the normal form of `forward_graph`: no batch size, no foldable constants.

Shapes are static, with `ANY_BATCH` along a batch axis, so that shape arithmetic folds away.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from model_export.batch_axis import ANY_BATCH, is_batch, require_size_of_axis
from model_export.errors import ExportError

OTHER_BATCH = 5

_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
_WITH_SUBGRAPHS = ("If", "Loop", "Scan")
_NOT_FOLDED = {*_RANDOM, *_WITH_SUBGRAPHS}
"""What has other results each time, and what may read tensors that are not among its inputs."""


def static_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that shape inference finds; 0 stands for a size it does not."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return shapes


def fold_all_constants(
    model: ModelProto, initializers: dict[str, NDArray[np.generic]], trainable: set[str], output: str
) -> tuple[list[NodeProto], dict[str, NDArray[np.generic]]]:
    """`fold_constants` of a model's nodes until nothing is left to fold: a folded shape may make others known."""
    nodes, constants = list(model.graph.node), dict[str, NDArray[np.generic]]()
    while True:
        known = {**initializers, **constants}
        shapes = static_shapes(with_constants(model, nodes, known))
        kept, folded = fold_constants(nodes, known, trainable, shapes, output)
        constants.update(folded)
        if len(kept) == len(nodes):
            return kept, constants
        nodes = kept


def fold_constants(
    nodes: Iterable[NodeProto],
    initializers: dict[str, NDArray[np.generic]],
    trainable: set[str],
    shapes: dict[str, tuple[int, ...]],
    output: str,
) -> tuple[list[NodeProto], dict[str, NDArray[np.generic]]]:
    """Evaluate what depends on nothing trainable, random or given; `Identity` of anything is bypassed."""
    known = {name: array for name, array in initializers.items() if name not in trainable}
    folded: dict[str, NDArray[np.generic]] = {}
    aliases: dict[str, str] = {}
    kept = []
    for node in nodes:
        node.input[:] = [aliases.get(name, name) for name in node.input]
        if node.op_type == "Shape" and 0 not in shapes.get(node.input[0], (0,)):
            result: list[NDArray[np.generic]] = [np.asarray(shapes[node.input[0]], dtype=np.int64)]
        elif node.op_type == "Identity" and node.output[0] != output:
            aliases[node.output[0]] = node.input[0]
            continue
        elif _is_constant(node, known, shapes):
            require_size_of_axis(node, [known[name] for name in node.input if name])
            result = _evaluate(node, known)
        else:
            kept.append(node)
            continue
        folded.update(zip(node.output, result, strict=True))
        known.update(zip(node.output, result, strict=True))
    return kept, folded


def _is_constant(node: NodeProto, known: dict[str, NDArray[np.generic]], shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether a node gives the same each time, for any batch."""
    if node.op_type in _NOT_FOLDED or node.domain or not all(name in known for name in node.input if name):
        return False
    return not any(is_batch(size) for output in node.output for size in shapes.get(output, ()))


def _evaluate(node: NodeProto, known: dict[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    results = ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input if name})
    return [np.asarray(result) for result in results]


def with_constants(model: ModelProto, nodes: list[NodeProto], arrays: dict[str, NDArray[np.generic]]) -> ModelProto:
    """The same inputs and outputs around other nodes and initializers."""
    graph = helper.make_graph(
        nodes,
        "forward",
        list(model.graph.input),
        list(model.graph.output),
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=model.opset_import)


def normalise_reshape(
    node: NodeProto, constants: dict[str, NDArray[np.generic]], shapes: dict[str, tuple[int, ...]]
) -> NodeProto:
    """`Flatten(axis=1)` for a reshape to two axes; one to more axes names all but the batch axis.

    A reshape that moves the batch axis stays as it is, which the gradient compiler refuses.
    """
    if node.op_type != "Reshape":
        return node
    before, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if not before[:1] == after[:1] == (ANY_BATCH,):
        return _with_open_batch(node, constants, before, after)
    if len(after) == 2:
        return helper.make_node("Flatten", [node.input[0]], list(node.output), name=node.name, axis=1)
    target = f"{node.output[0]}.shape"
    given = constants.get(node.input[1], np.asarray(after))
    sizes = [-1 if wish == -1 else size for wish, size in zip(given, after, strict=True)]
    constants[target] = np.asarray([0, *sizes[1:]], dtype=np.int64)
    return helper.make_node("Reshape", [node.input[0], target], list(node.output), name=node.name)


def _with_open_batch(
    node: NodeProto, constants: dict[str, NDArray[np.generic]], before: tuple[int, ...], after: tuple[int, ...]
) -> NodeProto:
    """0 or -1 in the target where it has the batch size, as far as those can say it."""
    given = constants.get(node.input[1], np.asarray(after)).tolist()
    for axis, size in enumerate(given):
        if is_batch(size) and before[axis : axis + 1] == after[axis : axis + 1] == (ANY_BATCH,):
            given[axis] = 0
        elif is_batch(size) and -1 not in given:
            given[axis] = -1
    target = f"{node.output[0]}.shape"
    constants[target] = np.asarray(given, dtype=np.int64)
    return helper.make_node("Reshape", [node.input[0], target], list(node.output), name=node.name)


def fuse_transposed_weights(nodes: list[NodeProto], shapes: dict[str, tuple[int, ...]]) -> list[NodeProto]:
    """`MatMul(x, Transpose(w))` of matrices, as torch exports a linear layer without bias, becomes one `Gemm`."""
    transposed = {
        node.output[0]: node.input[0]
        for node in nodes
        if node.op_type == "Transpose" and node.attribute[0].ints == [1, 0]
    }
    fused = []
    for node in nodes:
        if node.op_type == "MatMul" and node.input[1] in transposed and len(shapes.get(node.input[0], ())) == 2:
            inputs = [node.input[0], transposed[node.input[1]]]
            fused.append(helper.make_node("Gemm", inputs, list(node.output), name=node.name, transB=1))
        else:
            fused.append(node)
    read = {name for node in fused for name in node.input}
    return [node for node in fused if node.op_type != "Transpose" or node.output[0] in read]


def require_any_batch(model: ModelProto) -> None:
    """Raise `ExportError` unless the graph's shapes also fit a batch of another size than the traced one."""
    probe = ModelProto()
    probe.CopyFrom(model)
    for value in (*probe.graph.input, *probe.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = OTHER_BATCH
    try:
        onnx.shape_inference.infer_shapes(probe, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"the model must take batches of any size, but not one of {OTHER_BATCH}: {reason}") from error

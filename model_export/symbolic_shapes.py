"""Targets of Reshape that fit every width: 0 for an axis in its place, -1 for the one other axis that is cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from model_export.autodiff.rules.shape import in_place, segments
from model_export.axis_labels import AxisLabels
from model_export.forward_graph import ForwardGraph


def open_shapes(graph: ForwardGraph, axes: AxisLabels) -> ForwardGraph:
    """`graph` without a literal size of an axis that may be cut; `axes` has the labels of all its tensors."""
    constants, nodes = dict(graph.constants), []
    for node in graph.nodes:
        if node.op_type == "Reshape" and node.input[1] in graph.constants:
            target = f"{node.output[0]}.target"
            constants[target] = _open_target(graph, axes, node)
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.input[1] = target
            nodes.append(copy)
        else:
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    constants = {name: array for name, array in constants.items() if name in read}
    shapes = {**graph.shapes, **{name: array.shape for name, array in constants.items()}}
    return replace(graph, nodes=tuple(nodes), constants=constants, shapes=shapes)


def _open_target(graph: ForwardGraph, axes: AxisLabels, node: NodeProto) -> NDArray[np.int64]:
    before, after = graph.shapes[node.input[0]], graph.shapes[node.output[0]]
    result = np.asarray(graph.constants[node.input[1]], dtype=np.int64).copy()
    cut = [axis for axis, label in enumerate(axes.of(node.output[0])) if axes.is_cut(label)]
    kept = [ins[0] for ins, outs in segments(before, after) if in_place(ins, outs)]
    left_open = [axis for axis in cut if axis not in kept]
    if left_open:
        result = np.where(result == -1, after, result)
    result[kept] = 0
    result[left_open] = -1
    return result

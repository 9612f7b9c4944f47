"""Gemm and MatMul."""

from __future__ import annotations

from math import prod

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.per_example import ExampleGradient, OuterGradient, VectorGradient
from model_export.autodiff.pointwise import sum_to
from model_export.autodiff.registry import (
    Node,
    Shape,
    attribute,
    axis_rule,
    example_rule,
    gradient_rule,
    support_check,
)
from model_export.axis_labels import FIXED, AxisLabel, AxisLabels
from model_export.batch_axis import shown

FEW_INPUTS = 16
"""Inputs of a weight below which a Gemm of as many columns leaves vector registers half empty."""


@support_check("Gemm")
def check_gemm(node: Node) -> str | None:
    """Only y = a b + c and y = a b' + c with a vector c, which is what torch exports for a linear layer."""
    if len(node.inputs) > 2 and node.shape(node.inputs[2]) != node.shape(node.output)[1:]:
        return (
            f"Gemm with a third input of shape {shown(node.shape(node.inputs[2]))}; supported is a bias for each output"
        )
    plain = node.attribute("alpha", 1.0) == 1.0 and node.attribute("beta", 1.0) == 1.0
    if plain and not node.attribute("transA", 0):
        return None
    return "Gemm is supported with alpha = beta = 1 and transA = 0; use torch.nn.Linear"


@gradient_rule("Gemm")
def gemm(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dA = dY B', dB = A' dY (transposed where B is), dC = the sum of dY over the batch."""
    a, b = node.inputs[:2]
    transposed = node.attribute("transB", 0)
    gradients: list[str | None] = [None] * len(node.inputs)
    if node.wanted[0]:
        gradients[0] = g.op("Gemm", dy, b, transB=0 if transposed else 1)
    if node.wanted[1]:
        gradients[1] = g.op("Gemm", *((dy, a) if transposed else (a, dy)), transA=1)
    if len(node.inputs) > 2 and node.wanted[2]:
        gradients[2] = g.op("ReduceSum", dy, g.sizes(0), keepdims=0)
    return gradients


@example_rule("Gemm")
def gemm_example(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
    """One position: the gradient of the matrix for one example is dy a' (Goodfellow, 2015)."""
    del g
    if index == 2:
        return VectorGradient(dy)
    sizes = node.shape(node.inputs[0])[1], node.shape(node.output)[1]
    return OuterGradient(node.inputs[0], dy, 1, *sizes, out_last=not node.attribute("transB", 0))


@axis_rule("Gemm")
def gemm_axes(axes: AxisLabels, node: NodeProto) -> None:
    """The matrix's input axis goes with the activations, its other axis with the output and the bias."""
    a, b = axes.of(node.input[0]), axes.of(node.input[1])
    out_axis, in_axis = (0, 1) if attribute(node, "transB", 0) else (1, 0)
    axes.read(b[in_axis], a[1], uses=1)
    for bias in node.input[2:]:
        axes.unite(b[out_axis], axes.of(bias)[-1])
    axes.set(node.output[0], [a[0], b[out_axis]])


@support_check("MatMul")
def check_matmul(node: Node) -> str | None:
    """Operands of two axes or more."""
    a, b = (node.shape(name) for name in node.inputs)
    if min(len(a), len(b)) >= 2:
        return None
    return f"MatMul of shapes {shown(a)} and {shown(b)}; supported are operands of two axes or more"


@gradient_rule("MatMul")
def matmul(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dA = dY B', dB = A' dY, over all leading axes."""
    a, b = node.inputs
    shapes = [node.shape(name) for name in (a, b, node.output)]
    gradients: list[str | None] = [None, None]
    if node.wanted[0]:
        product = g.op("MatMul", dy, _transposed(g, b, shapes[1]))
        gradients[0] = sum_to(g, product, _leading(shapes[2], shapes[0]), shapes[0])
    if node.wanted[1] and len(shapes[1]) == 2:
        rows, deltas = (_as_matrix(g, name, shape) for name, shape in ((a, shapes[0]), (dy, shapes[2])))
        gradients[1] = _product_over_rows(g, rows, deltas, fan_in=shapes[1][0])
    elif node.wanted[1]:
        product = g.op("MatMul", _transposed(g, a, shapes[0]), dy)
        gradients[1] = sum_to(g, product, _leading(shapes[2], shapes[1]), shapes[1])
    return gradients


@example_rule("MatMul")
def matmul_example(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
    """Of a matrix on the right, every entry of the axes between the first and the last is a position."""
    inputs, shape, out = node.inputs[0], node.shape(node.inputs[0]), node.shape(node.output)
    if index == 1 and len(node.shape(node.inputs[1])) == 2:
        positions = prod(shape[1:-1])
        if positions == 1 and len(shape) > 2:
            inputs, dy = (g.op("Flatten", name, axis=1) for name in (inputs, dy))
        elif len(shape) > 3:
            inputs, dy = (_joined_positions(g, name, len(shape)) for name in (inputs, dy))
        return OuterGradient(inputs, dy, positions, shape[-1], out[-1], out_last=True)
    if index == 0 and len(shape) == 2 and len(out) == 3:
        inputs = node.inputs[1]
        if out[2] == 1:
            inputs, dy = (g.op("Flatten", name, axis=1) for name in (inputs, dy))
        return OuterGradient(inputs, dy, out[2], shape[1], shape[0], positions_last=out[2] > 1)
    own = node.shape(node.inputs[index])
    other = node.shape(node.inputs[1 - index])
    factors = (dy, _transposed(g, node.inputs[1], other)) if index == 0 else (_transposed(g, inputs, other), dy)
    product, padded = g.op("MatMul", *factors), (1,) * (len(out) - len(own)) + own
    summed = [axis for axis in range(1, len(out) - 2) if padded[axis] == 1 != out[axis]]
    if summed:
        product = g.op("ReduceSum", product, g.sizes(*summed), keepdims=1)
    return VectorGradient(g.op("Flatten", product, axis=1))


@axis_rule("MatMul")
def matmul_axes(axes: AxisLabels, node: NodeProto) -> None:
    """As for Gemm, at every position; an operand of two axes is a weight, one of more holds examples."""
    a, b = (axes.of(name) for name in node.input)
    shapes = [axes.shapes[name] for name in (*node.input, node.output[0])]
    if len(b) == 2:
        axes.read(b[0], a[-1], uses=prod(shapes[0][1:-1]))
    elif len(a) == 2:
        axes.read(a[1], b[-2], uses=prod(shapes[1][1:-2]) * shapes[1][-1])
    else:
        axes.unite(a[-1], b[-2])
    aligned: list[AxisLabel | None] = [None] * (len(shapes[2]) - 2)
    for labels, shape in ((a, shapes[0]), (b, shapes[1])):
        for axis in range(-len(shape), -2):
            present = aligned[axis + 2]
            if shape[axis] != shapes[2][axis]:
                axes.fix([labels[axis]])
            elif present is None:
                aligned[axis + 2] = labels[axis]
            else:
                axes.unite(present, labels[axis])
    axes.set(node.output[0], [*(label or FIXED for label in aligned), a[-2], b[-1]])


def _joined_positions(g: GraphBuilder, name: str, rank: int) -> str:
    """Shape (first axis, all between, last axis), whichever of them are cut."""
    sizes = (g.op("Shape", name, start=start, end=start + 1) for start in (0, rank - 1))
    return g.op("Reshape", name, g.op("Concat", next(sizes), g.sizes(-1), next(sizes), axis=0))


def _product_over_rows(g: GraphBuilder, rows: str, deltas: str, fan_in: int) -> str:
    """rows' deltas. onnxruntime computes a Gemm that is transposed next the other way round, slowly for few inputs.

    For 10 inputs, 256 outputs and 1568 rows that takes 142 microseconds, and a MatMul and its transposition 106.
    """
    if fan_in < FEW_INPUTS:
        return g.op("MatMul", g.op("Transpose", rows, perm=[1, 0]), deltas)
    return g.op("Gemm", rows, deltas, transA=1)


def _leading(output: Shape, operand: Shape) -> Shape:
    """The shape of an operand with the leading axes of the product."""
    return (*output[:-2], *operand[-2:])


def _transposed(g: GraphBuilder, name: str, shape: Shape) -> str:
    rank = len(shape)
    return g.op("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2])


def _as_matrix(g: GraphBuilder, name: str, shape: Shape) -> str:
    if len(shape) == 2:
        return name
    return g.op("Flatten", name, axis=len(shape) - 1)

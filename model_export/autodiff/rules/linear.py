"""Gemm and MatMul."""

from __future__ import annotations

from math import prod

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.per_example import ExampleGradient, OuterGradient, VectorGradient
from model_export.autodiff.registry import Node, attribute, axis_rule, example_rule, gradient_rule, support_check
from model_export.axis_labels import AxisLabels


@support_check("Gemm")
def check_gemm(node: Node) -> str | None:
    """Only y = a b + c and y = a b' + c with a vector c, which is what torch exports for a linear layer."""
    if len(node.inputs) > 2 and node.shape(node.inputs[2]) != node.shape(node.output)[1:]:
        return f"Gemm with a third input of shape {node.shape(node.inputs[2])}; supported is a bias for each output"
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
    return OuterGradient(node.inputs[0], dy, 1, node.shape(node.inputs[0])[1], node.shape(node.output)[1])


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
    """Activations of any rank times a matrix."""
    a, b = (node.shape(name) for name in node.inputs)
    if len(a) >= 2 and len(b) == 2:
        return None
    return f"MatMul of shapes {a} and {b}; supported is (..., k) times (k, m)"


@gradient_rule("MatMul")
def matmul(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dA = dY B', dB = A' dY over all leading axes."""
    a, b = node.inputs
    gradients: list[str | None] = [None, None]
    if node.wanted[0]:
        gradients[0] = g.op("MatMul", dy, g.op("Transpose", b, perm=[1, 0]))
    if node.wanted[1]:
        rows, deltas = (_as_matrix(g, name, node.shape(like)) for name, like in ((a, a), (dy, node.output)))
        gradients[1] = g.op("Gemm", rows, deltas, transA=1)
    return gradients


@example_rule("MatMul")
def matmul_example(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
    """Every entry of the axes between the first and the last is a position; index is 1, the matrix."""
    del index
    inputs, shape, out = node.inputs[0], node.shape(node.inputs[0]), node.shape(node.output)[-1]
    positions = prod(shape[1:-1])
    if len(shape) > 3:
        inputs, dy = (g.op("Reshape", name, g.sizes(0, positions, -1)) for name in (inputs, dy))
    return OuterGradient(inputs, dy, positions, shape[-1], out)


@axis_rule("MatMul")
def matmul_axes(axes: AxisLabels, node: NodeProto) -> None:
    """As for Gemm, at every position."""
    a, b = axes.of(node.input[0]), axes.of(node.input[1])
    axes.read(b[0], a[-1], uses=prod(axes.shapes[node.input[0]][1:-1]))
    axes.set(node.output[0], [*a[:-1], b[1]])


def _as_matrix(g: GraphBuilder, name: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return name
    return g.op("Flatten", name, axis=len(shape) - 1)

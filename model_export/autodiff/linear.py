"""Gemm and MatMul."""

from __future__ import annotations

from math import prod

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import Node, Place, gradient_rule, score_rule, support_check


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


@score_rule("Gemm")
def gemm_scores(g: GraphBuilder, node: Node, dy: str, place: Place) -> str:
    """The gradient of row j for one example is dy_j a, so its square is dy_j^2 |a|^2 (Goodfellow, 2015)."""
    if place.index == 2:
        return g.op("ReduceSumSquare", dy, axes=[0], keepdims=0)
    norms = g.op("ReduceSumSquare", node.inputs[0], axes=[1], keepdims=1)
    return g.op("ReduceSum", g.op("Mul", g.op("Mul", dy, dy), norms), g.sizes(0), keepdims=0)


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


@score_rule("MatMul")
def matmul_scores(g: GraphBuilder, node: Node, dy: str, place: Place) -> str:
    """Per-example gradients a' dy, squared and summed over examples and inputs."""
    del place
    a, shape = node.inputs[0], node.shape(node.inputs[0])
    if len(shape) == 2:
        norms = g.op("ReduceSumSquare", a, axes=[1], keepdims=1)
        return g.op("ReduceSum", g.op("Mul", g.op("Mul", dy, dy), norms), g.sizes(0), keepdims=0)
    positions = prod(shape[1:-1])
    a3 = g.op("Reshape", a, g.op("Concat", _batch_size(g, a), g.sizes(positions, -1), axis=0))
    dy3 = g.op("Reshape", dy, g.op("Concat", _batch_size(g, dy), g.sizes(positions, -1), axis=0))
    per_example = g.op("MatMul", g.op("Transpose", a3, perm=[0, 2, 1]), dy3)
    return g.op("ReduceSumSquare", per_example, axes=[0, 1], keepdims=0)


def _as_matrix(g: GraphBuilder, name: str, shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return name
    return g.op("Flatten", name, axis=len(shape) - 1)


def _batch_size(g: GraphBuilder, name: str) -> str:
    return g.op("Slice", g.op("Shape", name), g.sizes(0), g.sizes(1))

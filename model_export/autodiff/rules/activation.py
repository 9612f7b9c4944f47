"""Pointwise activations."""

from __future__ import annotations

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import Node, gradient_rule


@gradient_rule("Relu")
def relu(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = dY where Y > 0; the sign of Y is 0 or 1."""
    return [g.op("Mul", dy, g.op("Sign", node.output))]

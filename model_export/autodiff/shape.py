"""Operators that move entries and change none."""

from __future__ import annotations

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import Node, gradient_rule


@gradient_rule("Flatten")
def flatten(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY in the input's shape, read at run time so that any width fits."""
    return [g.op("Reshape", dy, g.op("Shape", node.inputs[0]))]


@gradient_rule("Reshape")
def reshape(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY in the input's shape; the target shape has no gradient."""
    return [g.op("Reshape", dy, g.op("Shape", node.inputs[0])), None]

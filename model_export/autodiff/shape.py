"""Operators that move entries and change none."""

from __future__ import annotations

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import Node, gradient_rule, support_check
from model_export.normal_form import TRACED_BATCH


@support_check("Flatten")
def check_flatten(node: Node) -> str | None:
    """Only the batch axis stays."""
    return None if node.attribute("axis", 1) == 1 else "Flatten that joins the batch axis with others"


@support_check("Reshape")
def check_reshape(node: Node) -> str | None:
    """The batch axis stays first."""
    before, after = node.shape(node.inputs[0]), node.shape(node.output)
    if before[:1] == after[:1] == (TRACED_BATCH,):
        return None
    return f"Reshape of {before} to {after} where the batch has {TRACED_BATCH}; the batch axis must stay first"


@gradient_rule("Flatten")
def flatten(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY in the input's shape, read at run time so that any width fits."""
    return [g.op("Reshape", dy, g.op("Shape", node.inputs[0]))]


@gradient_rule("Reshape")
def reshape(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY in the input's shape; the target shape has no gradient."""
    return [g.op("Reshape", dy, g.op("Shape", node.inputs[0])), None]

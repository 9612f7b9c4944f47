"""Arithmetic, comparisons and other functions of single entries, with broadcasting."""

from __future__ import annotations

import math

from onnx import TensorProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.pointwise import STEEP, pointwise, step, sum_to, unary
from model_export.autodiff.registry import Node, gradient_rule, support_check

_STEEPEST_SQUARE_ROOT = 1e22


@pointwise("Add", "Sum")
def add(g: GraphBuilder, node: Node, dy: str, index: int) -> str:
    """Every dX is dY."""
    del g, node, index
    return dy


@pointwise("Sub")
def sub(g: GraphBuilder, node: Node, dy: str, index: int) -> str:
    """dA = dY, dB = -dY."""
    del node
    return dy if index == 0 else g.op("Neg", dy)


@gradient_rule("Sub")
def sub_all(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """As `sub`; the sign of dB changes after dY is summed."""
    shapes = [node.shape(name) for name in (node.output, *node.inputs)]
    first = sum_to(g, dy, shapes[0], shapes[1]) if node.wanted[0] else None
    second = g.op("Neg", sum_to(g, dy, shapes[0], shapes[2])) if node.wanted[1] else None
    return [first, second]


@pointwise("Mul")
def mul(g: GraphBuilder, node: Node, dy: str, index: int) -> str:
    """dA = dY B, dB = dY A."""
    return g.op("Mul", dy, node.inputs[1 - index])


@pointwise("Div")
def div(g: GraphBuilder, node: Node, dy: str, index: int) -> str:
    """dA = dY / B, dB = -dY Y / B."""
    divisor = node.inputs[1]
    if index == 0:
        return g.op("Div", dy, divisor)
    return g.op("Neg", g.op("Div", g.op("Mul", dy, node.output), divisor))


@gradient_rule("Div")
def div_all(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """As `div`; dY Y is divided after it is summed."""
    shapes = [node.shape(name) for name in (node.output, *node.inputs)]
    first = second = None
    if node.wanted[0]:
        first = sum_to(g, div(g, node, dy, 0), shapes[0], shapes[1])
    if node.wanted[1]:
        products = sum_to(g, g.op("Mul", dy, node.output), shapes[0], shapes[2])
        second = g.op("Neg", g.op("Div", products, node.inputs[1]))
    return [first, second]


@pointwise("Pow")
def power(g: GraphBuilder, node: Node, dy: str, index: int) -> str:
    """dX = dY p x^(p - 1), finite at 0; dP = dY Y log x, and 0 where x is 0. A square is a `Mul` by now."""
    base, exponent = node.inputs
    if index == 0:
        slope = g.op("Pow", base, g.op("Sub", exponent, g.constant(1.0)))
        return g.op("Mul", dy, g.op("Mul", exponent, _bounded(g, slope, STEEP)))
    return g.op("Mul", dy, g.op("Mul", node.output, _bounded(g, g.op("Log", base), STEEP)))


@pointwise("Max", "Min")
def extremum(g: GraphBuilder, node: Node, dy: str, index: int) -> str:
    """dY goes to the extreme input, shared evenly where several are."""
    if len(node.inputs) == 1:
        return dy
    if len(node.inputs) == 2:
        own, other = node.inputs[index], node.inputs[1 - index]
        lead = g.op("Sub", own, other) if node.proto.op_type == "Max" else g.op("Sub", other, own)
        return g.op("Mul", dy, step(g, lead, at_zero=0.5))
    hits = [_as_float(g, g.op("Equal", name, node.output)) for name in node.inputs]
    return g.op("Mul", hits[index], g.op("Div", dy, g.op("Sum", *hits)))


@pointwise("Where")
def where(g: GraphBuilder, node: Node, dy: str, index: int) -> str:
    """dY goes to the input that was chosen; the condition has no gradient, which `where_all` sees to."""
    condition = node.inputs[0] if index == 1 else g.op("Not", node.inputs[0])
    return g.op("Mul", dy, _as_float(g, condition))


@gradient_rule("Where")
def where_all(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """As `where`."""
    shape = node.shape(node.output)
    return [None] + [
        sum_to(g, where(g, node, dy, index), shape, node.shape(node.inputs[index])) if node.wanted[index] else None
        for index in (1, 2)
    ]


@unary("Neg")
def neg(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = -dY."""
    del node
    return g.op("Neg", dy)


@unary("Abs")
def absolute(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY sign(x), 0 at 0."""
    return g.op("Mul", dy, _bounded(g, g.op("Mul", node.inputs[0], g.constant(STEEP)), 1.0))


@unary("Exp")
def exp(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY Y."""
    return g.op("Mul", dy, node.output)


@unary("Log")
def log(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY / x, finite at 0."""
    return g.op("Mul", dy, _bounded(g, g.op("Reciprocal", node.inputs[0]), STEEP))


@unary("Sqrt")
def square_root(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY / 2Y, finite at 0: no float32 above 0 has a steeper root."""
    slope = g.op("Div", g.constant(0.5), node.output)
    return g.op("Mul", dy, _bounded(g, slope, _STEEPEST_SQUARE_ROOT))


@unary("Reciprocal")
def reciprocal(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = -dY Y^2."""
    return g.op("Neg", g.op("Mul", dy, g.op("Mul", node.output, node.output)))


@unary("Erf")
def erf(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY exp(log(2 / sqrt(pi)) - x^2)."""
    x = node.inputs[0]
    return g.op("Mul", dy, g.op("Exp", g.op("Sub", g.constant(math.log(2 / math.sqrt(math.pi))), g.op("Mul", x, x))))


@unary("Sin")
def sine(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY cos(x)."""
    return g.op("Mul", dy, g.op("Cos", node.inputs[0]))


@unary("Cos")
def cosine(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = -dY sin(x)."""
    return g.op("Neg", g.op("Mul", dy, g.op("Sin", node.inputs[0])))


@support_check("Cast")
def check_cast(node: Node) -> str | None:
    """To float32, or to integers and truth values, through which no gradient flows."""
    target = node.attribute("to", TensorProto.FLOAT)
    if target in (TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16):
        return f"Cast to {TensorProto.DataType.Name(target).lower()}; keep the computation in float32"
    return None


@gradient_rule("Cast")
def cast(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = dY between floats."""
    del g
    return [dy if node.attribute("to", TensorProto.FLOAT) == TensorProto.FLOAT else None]


@gradient_rule(
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor"),
    *("Sign", "Floor", "Ceil", "Round", "IsNaN", "IsInf"),
)
def constant_pieces(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """No gradient: constant but for jumps."""
    del g, dy
    return [None] * len(node.inputs)


def _as_float(g: GraphBuilder, mask: str) -> str:
    return g.op("Cast", mask, to=TensorProto.FLOAT)


def _bounded(g: GraphBuilder, slope: str, largest: float) -> str:
    return g.op("Clip", slope, g.constant(-largest), g.constant(largest))

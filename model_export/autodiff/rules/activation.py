"""Activations, each a function of single entries."""

from __future__ import annotations

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.pointwise import pointwise, step, unary
from model_export.autodiff.registry import Node
from model_export.fast_forms import SELU_ALPHA, SELU_GAMMA


@unary("Relu")
def relu(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY where Y > 0."""
    return g.op("Mul", dy, step(g, node.output))


@unary("LeakyRelu")
def leaky_relu(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY where x > 0, else alpha dY (Maas, Hannun and Ng, 2013); Y has the sign of x unless alpha is negative."""
    alpha = node.attribute("alpha", 0.01)
    positive = step(g, node.output if alpha >= 0 else node.inputs[0])
    if 0 <= alpha <= 1:
        return g.op("Mul", dy, g.op("Max", positive, g.constant(alpha)))
    return g.op("Mul", dy, g.op("Add", g.op("Mul", positive, g.constant(1 - alpha)), g.constant(alpha)))


@pointwise("PRelu")
def prelu(g: GraphBuilder, node: Node, dy: str, index: int) -> str:
    """dX = dY where x > 0, else slope dY; dSlope = dY min(x, 0) (He et al., 2015)."""
    x, slope = node.inputs
    if index == 1:
        return g.op("Mul", dy, g.op("Min", x, g.constant(0.0)))
    gain = g.op("Mul", step(g, x), g.op("Sub", g.constant(1.0), slope))
    return g.op("Mul", dy, g.op("Add", gain, slope))


@unary("Elu")
def elu(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY where Y > 0, else dY (Y + alpha) (Clevert, Unterthiner and Hochreiter, 2016)."""
    return g.op("Mul", dy, _exponential_slope(g, node.output, node.attribute("alpha", 1.0), 1.0))


@unary("Selu")
def selu(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = gamma dY where Y > 0, else dY (Y + gamma alpha) (Klambauer et al., 2017)."""
    gamma = node.attribute("gamma", SELU_GAMMA)
    return g.op("Mul", dy, _exponential_slope(g, node.output, gamma * node.attribute("alpha", SELU_ALPHA), gamma))


@unary("Celu")
def celu(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY where Y > 0, else dY (Y / alpha + 1) (Barron, 2017)."""
    scaled = g.op("Div", node.output, g.constant(node.attribute("alpha", 1.0)))
    return g.op("Mul", dy, _exponential_slope(g, scaled, 1.0, 1.0))


@unary("Softplus")
def softplus(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY sigmoid(x)."""
    return g.op("Mul", dy, g.op("Sigmoid", node.inputs[0]))


@unary("Sigmoid")
def sigmoid(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY Y (1 - Y)."""
    return g.op("Mul", dy, _hump(g, node.output, 0.0, 1.0))


@unary("Tanh")
def tanh(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY (1 - Y^2)."""
    return g.op("Mul", dy, g.op("Sub", g.constant(1.0), g.op("Mul", node.output, node.output)))


@unary("HardSigmoid")
def hard_sigmoid(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = alpha dY where 0 < Y < 1."""
    inside = step(g, _hump(g, node.output, 0.0, 1.0))
    return g.op("Mul", dy, g.op("Mul", inside, g.constant(node.attribute("alpha", 0.2))))


@unary("HardSwish")
def hard_swish(g: GraphBuilder, node: Node, dy: str) -> str:
    """dX = dY (x / 3 + 1 / 2) where -3 < x < 3, dY above, 0 below (Howard et al., 2019)."""
    x = node.inputs[0]
    gate = g.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    inside = step(g, _hump(g, gate, 0.0, 1.0))
    slope = g.op("Mul", inside, g.op("Mul", x, g.constant(1 / 6)))
    return g.op("Mul", dy, g.op("Add", gate, slope))


@pointwise("Clip")
def clip(g: GraphBuilder, node: Node, dy: str, index: int) -> str:
    """dX = dY strictly within the bounds, as for relu6 and hardtanh; a bound has dY of what it holds back."""
    x, low, high = (*node.inputs, "", "")[:3]
    if index > 0:
        beyond = g.op("Sub", low, x) if index == 1 else g.op("Sub", x, high)
        return g.op("Mul", dy, step(g, beyond))
    rise = g.op("Sub", node.output, low) if low else ""
    fall = g.op("Sub", high, node.output) if high else ""
    if rise and fall:
        rise = g.op("Mul", rise, fall)
    return g.op("Mul", dy, step(g, rise or fall)) if rise or fall else dy


def _exponential_slope(g: GraphBuilder, output: str, below: float, above: float) -> str:
    """`above` where the output is above 0, else output + `below`."""
    slope = g.op("Add", g.op("Min", output, g.constant(0.0)), g.constant(below))
    if below == above:
        return slope
    return g.op("Add", slope, g.op("Mul", step(g, output), g.constant(above - below)))


def _hump(g: GraphBuilder, name: str, low: float, high: float) -> str:
    """(x - low)(high - x): above 0 between the two."""
    rise = g.op("Sub", name, g.constant(low)) if low else name
    return g.op("Mul", rise, g.op("Sub", g.constant(high), name))

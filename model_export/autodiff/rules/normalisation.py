"""Group and instance normalisation; layer normalisation (Ba, Kiros and Hinton, 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from onnx import NodeProto, TensorProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.per_example import ExampleGradient, VectorGradient
from model_export.autodiff.registry import Node, attribute, axis_rule, example_rule, gradient_rule, support_check
from model_export.axis_labels import AxisLabel, AxisLabels
from model_export.batch_axis import is_batch
from model_export.normalisation import (
    GROUP_NORM,
    LAYER_NORM,
    centred,
    inverse_deviation,
    rows_shape,
    scale_shape,
    standardised,
)


@dataclass(frozen=True)
class _Sums:
    """Sums of dY over space, times 1 and times x - mean, each (examples, groups, channels of the group)."""

    plain: str
    centred: str


@gradient_rule(GROUP_NORM)
def group_norm(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = (dY scale - mean(dY scale) - x' mean(dY scale x')) / deviation with x' = (x - mean) / deviation.

    The means follow from sums over space, which the gradients of scale and bias need as well.
    """
    sums = _sums(g, node, dy)
    gradients: list[str | None] = [None] * 3
    if node.wanted[0]:
        gradients[0] = _input_gradient(g, node, dy, sums)
    if node.wanted[1]:
        gradients[1] = g.op("ReduceSum", _scale_gradient(g, node, sums), g.sizes(0), keepdims=0)
    if node.wanted[2]:
        gradients[2] = g.op("ReduceSum", _flat(g, sums.plain), g.sizes(0), keepdims=0)
    return gradients


@example_rule(GROUP_NORM)
def group_norm_example(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
    """The sums over space are gradients of examples."""
    sums = _sums(g, node, dy)
    return VectorGradient(_scale_gradient(g, node, sums) if index == 1 else _flat(g, sums.plain))


@axis_rule(GROUP_NORM)
def group_norm_axes(axes: AxisLabels, node: NodeProto) -> None:
    """A neuron is a position within a group, and so repeated in every group; statistics are those of kept neurons."""
    x, *vectors = node.input
    labels, groups = axes.of(x), attribute(node, "num_groups", 1)
    axes.fix(labels[2:])
    if 1 < groups < axes.shapes[x][1]:
        axes.unite(labels[1], AxisLabel(axes.fresh().label, repeat=groups))
    for vector in filter(None, vectors):
        axes.unite(labels[1], axes.of(vector)[0])
    axes.set(node.output[0], labels)


@support_check(LAYER_NORM)
def check_layer_norm(node: Node) -> str | None:
    """Within examples, with one entry of scale and bias for each normalised entry."""
    x, *vectors = node.inputs
    normalised = node.shape(x)[node.attribute("axis", -1) :]
    if any(is_batch(size) for size in normalised):
        return "LayerNormalization over the batch axis mixes examples; normalise the axes of one example"
    if any(name and node.shape(name) != normalised for name in vectors):
        return f"LayerNormalization with scale or bias of another shape than {normalised}; use torch.nn.LayerNorm"
    return None


@gradient_rule(LAYER_NORM)
def layer_norm(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = (D - mean(D) - x' mean(D x')) / deviation with D = dY scale and x' = (x - mean) / deviation."""
    rank, axis, scale = len(node.shape(node.output)), node.attribute("axis", -1), node.inputs[1]
    leading, normalised = g.sizes(*range(axis)), list(range(axis, rank))
    rows = standardised(node.proto)
    gradients: list[str | None] = [None] * 3
    if node.wanted[0]:
        deltas = g.op("Mul", dy, scale) if scale else dy
        offset = g.op("ReduceMean", deltas, axes=normalised)
        slope = g.op("ReduceMean", g.op("Mul", deltas, rows), axes=normalised)
        result = g.op("Sub", g.op("Sub", deltas, offset), g.op("Mul", rows, slope))
        gradients[0] = g.op("Mul", result, inverse_deviation(node.proto))
    if node.wanted[1]:
        gradients[1] = g.op("ReduceSum", g.op("Mul", dy, rows), leading, keepdims=0)
    if node.wanted[2]:
        gradients[2] = g.op("ReduceSum", dy, leading, keepdims=0)
    return gradients


@example_rule(LAYER_NORM)
def layer_norm_example(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
    """Sums over positions."""
    positions = range(1, node.attribute("axis", -1))
    gradient = g.op("Mul", dy, standardised(node.proto)) if index == 1 else dy
    if positions:
        gradient = g.op("ReduceSum", gradient, g.sizes(*positions), keepdims=0)
    return VectorGradient(_flat(g, gradient))


@axis_rule(LAYER_NORM)
def layer_norm_axes(axes: AxisLabels, node: NodeProto) -> None:
    """Scale and bias go with the normalised axes, which can be cut: statistics are those of kept neurons."""
    x, *vectors = node.input
    labels = axes.of(x)
    for vector in filter(None, vectors):
        own = axes.of(vector)
        for label, other in zip(labels[len(labels) - len(own) :], own, strict=True):
            axes.unite(label, other)
    axes.set(node.output[0], labels)


def _sums(g: GraphBuilder, node: Node, dy: str) -> _Sums:
    shape = node.shape(node.inputs[0])
    by_channel = g.sizes(0, -1, prod(shape[2:]))
    deltas = g.op("Reshape", dy, by_channel)
    products = g.op("Mul", deltas, g.op("Reshape", centred(node.proto), by_channel))
    groups = rows_shape(node.attribute("num_groups", 1), shape)
    if groups[1] == 0:
        plain, slopes = (g.op("ReduceSum", name, g.sizes(2), keepdims=1) for name in (deltas, products))
    else:
        summed = (g.op("ReduceSum", name, g.sizes(2), keepdims=0) for name in (deltas, products))
        plain, slopes = (g.op("Reshape", name, g.sizes(*groups)) for name in summed)
    return _Sums(plain, slopes)


def _scale_gradient(g: GraphBuilder, node: Node, sums: _Sums) -> str:
    return _flat(g, g.op("Mul", sums.centred, inverse_deviation(node.proto)))


def _flat(g: GraphBuilder, name: str) -> str:
    return g.op("Flatten", name, axis=1)


def _input_gradient(g: GraphBuilder, node: Node, dy: str, sums: _Sums) -> str:
    shape, groups = node.shape(node.inputs[0]), node.attribute("num_groups", 1)
    inverse, residual, scale = inverse_deviation(node.proto), centred(node.proto), node.inputs[1]
    rows = g.sizes(*rows_shape(groups, shape))
    if scale:
        factor = g.op("Mul", inverse, g.op("Reshape", scale, g.sizes(*scale_shape(groups, shape))))
        by_channel = g.op("Reshape", dy, g.sizes(0, -1, prod(shape[2:])))
        scaled = g.op("Reshape", g.op("Mul", by_channel, g.op("Reshape", factor, g.sizes(0, -1, 1))), rows)
    else:
        factor = inverse
        scaled = g.op("Mul", g.op("Reshape", dy, rows), inverse)
    count = g.op("Cast", g.op("Shape", residual, start=2), to=TensorProto.FLOAT)
    offset, slope = (
        g.op("Div", g.op("ReduceSum", g.op("Mul", factor, name), g.sizes(2), keepdims=1), count)
        for name in (sums.plain, sums.centred)
    )
    slope = g.op("Mul", slope, g.op("Mul", inverse, inverse))
    gradient = g.op("Sub", g.op("Sub", scaled, g.op("Mul", residual, slope)), offset)
    return g.op("Reshape", gradient, g.op("Shape", node.inputs[0]))

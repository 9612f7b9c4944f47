"""Group and instance normalisation; layer normalisation (Ba, Kiros and Hinton, 2016)."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.per_example import ExampleGradient, VectorGradient
from model_export.autodiff.registry import Node, attribute, axis_rule, example_rule, gradient_rule, support_check
from model_export.autodiff.standardisation import (
    affine,
    group_rows,
    inverse_deviation,
    layer_rows,
    standardised,
    standardised_rows,
)
from model_export.axis_labels import AxisLabel, AxisLabels
from model_export.batch_axis import is_batch
from model_export.normalisation import GROUP_NORM, LAYER_NORM


@gradient_rule(GROUP_NORM)
def group_norm(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = (dY scale - mean(dY scale) - x' mean(dY scale x')) / deviation with x' = (x - mean) / deviation.

    The means follow from sums over space, which the gradients of scale and bias need as well.
    """
    gradients: list[str | None] = [None] * 3
    if node.wanted[0]:
        gradients[0] = _input_gradient(g, node, dy)
    if node.wanted[1]:
        gradients[1] = g.op("ReduceSum", _slopes(g, node, dy), g.sizes(0), keepdims=0)
    if node.wanted[2]:
        gradients[2] = g.op("ReduceSum", _over_space(g, node, dy), g.sizes(0), keepdims=0)
    return gradients


@example_rule(GROUP_NORM)
def group_norm_example(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
    """The sums over space are gradients of examples."""
    return VectorGradient(_slopes(g, node, dy) if index == 1 else _over_space(g, node, dy))


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
    x = standardised(node.proto)
    gradients: list[str | None] = [None] * 3
    if node.wanted[0]:
        deltas = g.op("Mul", dy, scale) if scale else dy
        means = (
            g.op("Reshape", g.op("ReduceMean", entries, axes=normalised, keepdims=0), g.sizes(-1))
            for entries in (deltas, g.op("Mul", deltas, x))
        )
        own = affine(g, layer_rows(g, deltas, axis), inverse_deviation(node.proto))
        gradients[0] = _less_projections(g, node, own, means)
    if node.wanted[1]:
        gradients[1] = g.op("ReduceSum", g.op("Mul", dy, x), leading, keepdims=0)
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
    return VectorGradient(g.op("Flatten", gradient, axis=1))


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


def _over_space(g: GraphBuilder, node: Node, entries: str) -> str:
    """Sums for each example and channel."""
    space = range(2, len(node.shape(node.output)))
    return g.op("ReduceSum", entries, g.sizes(*space), keepdims=0) if space else entries


def _slopes(g: GraphBuilder, node: Node, dy: str) -> str:
    """Sums of dY x' for each example and channel."""
    return _over_space(g, node, g.op("Mul", dy, standardised(node.proto)))


def _input_gradient(g: GraphBuilder, node: Node, dy: str) -> str:
    shape, groups, scale = node.shape(node.output), node.attribute("num_groups", 1), node.inputs[1]
    if not scale:
        own = affine(g, group_rows(g, dy, groups, shape[1]), inverse_deviation(node.proto))
    elif len(shape) == 2:
        own = g.op("Mul", dy, _factors(g, node, groups, dy))
    else:
        sums = _over_space(g, node, dy)
        factors = g.op("Reshape", _factors(g, node, groups, sums), g.sizes(-1))
        own = affine(g, g.op("Reshape", dy, g.sizes(1, -1, prod(shape[2:]))), factors)
    means = (_group_means(g, node, sums) for sums in (_over_space(g, node, dy), _slopes(g, node, dy)))
    return _less_projections(g, node, own, means, prod(shape[2:]))


def _factors(g: GraphBuilder, node: Node, groups: int, like: str) -> str:
    """Scale / deviation for each example and channel, in the shape of `like`, (examples, channels)."""
    inverse, scale = inverse_deviation(node.proto), node.inputs[1]
    if groups == 1:
        return g.op("Mul", g.op("Unsqueeze", inverse, g.sizes(1)), scale)
    if groups == node.shape(node.output)[1]:
        return g.op("Mul", g.op("Reshape", inverse, g.op("Shape", like)), scale)
    by_group = g.op("Reshape", inverse, g.sizes(-1, groups, 1))
    return g.op("Reshape", g.op("Mul", by_group, g.op("Reshape", scale, g.sizes(groups, -1))), g.op("Shape", like))


def _group_means(g: GraphBuilder, node: Node, sums: str) -> str:
    """Means over a group's channels of sums times scale, (examples x groups,)."""
    groups, scale = node.attribute("num_groups", 1), node.inputs[1]
    if scale:
        sums = g.op("Mul", sums, scale)
    if groups == 1:
        return g.op("ReduceMean", sums, axes=[1], keepdims=0)
    if groups < node.shape(node.output)[1]:
        sums = g.op("ReduceMean", g.op("Reshape", sums, g.sizes(0, groups, -1)), axes=[2], keepdims=0)
    return g.op("Reshape", sums, g.sizes(-1))


def _less_projections(g: GraphBuilder, node: Node, own: str, projections: Iterable[str], summed: int = 1) -> str:
    """Own - (offset + x' slope) / deviation; both are given for each row, `summed` times as large."""
    fall = g.op("Mul", inverse_deviation(node.proto), g.constant(-1 / summed))
    offset, slope = (g.op("Mul", projection, fall) for projection in projections)
    rest = affine(g, standardised_rows(node.proto), slope, offset)
    shape = g.op("Shape", node.inputs[0])
    return g.op("Add", g.op("Reshape", own, shape), g.op("Reshape", rest, shape))

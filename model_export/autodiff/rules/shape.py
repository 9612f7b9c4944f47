"""Operators that move entries or give them another shape, and change none."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.per_example import ExampleGradient, VectorGradient
from model_export.autodiff.pointwise import example_sum, sum_to
from model_export.autodiff.registry import Node, Shape, attribute, axis_rule, example_rule, gradient_rule, support_check
from model_export.axis_labels import FIXED, AxisLabel, AxisLabels
from model_export.batch_axis import ANY_BATCH, is_batch, shown


@support_check("Flatten")
def check_flatten(node: Node) -> str | None:
    """All axes but the first."""
    if node.attribute("axis", 1) % len(node.shape(node.inputs[0])) == 1:
        return None
    return "Flatten that joins the batch axis with others; flatten from axis 1"


@support_check("Reshape")
def check_reshape(node: Node) -> str | None:
    """Examples stay apart, along an axis of their own that no entries come before or leave."""
    before, after = node.shape(node.inputs[0]), node.shape(node.output)
    batch = next((axis for axis, size in enumerate(before) if is_batch(size)), None)
    if batch is None:
        return None
    if ANY_BATCH in after and prod(after[: after.index(ANY_BATCH)]) == prod(before[:batch]):
        return None
    return (
        f"Reshape of {shown(before)} to {shown(after)}; the batch axis must stay an axis of its own "
        "(torch.nn.Linear takes any number of axes before the last)"
    )


@gradient_rule("Squeeze", "Unsqueeze")
def squeeze(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY with the axes of size 1 put back, or taken out again."""
    if len(node.inputs) == 1:
        return reshape(g, node, dy)
    back = "Unsqueeze" if node.proto.op_type == "Squeeze" else "Squeeze"
    return [g.op(back, dy, node.inputs[1]), None]


@gradient_rule("Flatten", "Reshape")
def reshape(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY in the input's shape, read at run time so that any width fits; targets and axes have no gradient."""
    return [g.op("Reshape", dy, g.op("Shape", node.inputs[0])), *[None] * (len(node.inputs) - 1)]


@axis_rule("Flatten")
def flatten_axes(axes: AxisLabels, node: NodeProto) -> None:
    """One of the flattened axes can still be cut, the first that is: its entries become blocks, repeated."""
    first, *rest = axes.of(node.input[0])
    label = _merge(axes, rest, axes.shapes[node.input[0]][1:])
    axes.set(node.output[0], [first, label])


@axis_rule("Reshape", "Squeeze", "Unsqueeze")
def reshape_axes(axes: AxisLabels, node: NodeProto) -> None:
    """Axes that become one stay cut along the first that is; of those that one becomes, one is cut (`_free_axis`).

    A Reshape's target holds 0 for an axis in its place and a single -1, so of all other axes one is cut at most.
    """
    labels, before, after = axes.of(node.input[0]), axes.shapes[node.input[0]], axes.shapes[node.output[0]]
    result = [FIXED] * len(after)
    taken = False
    for ins, outs in segments(before, after):
        label = _merge(axes, [labels[axis] for axis in ins], tuple(before[axis] for axis in ins))
        if not outs or not axes.is_cut(label):
            continue
        if not in_place(ins, outs):
            if taken:
                axes.fix([label])
                continue
            taken = node.op_type == "Reshape"
        free = _free_axis(axes, node, outs)
        result[free] = split_label(axes, label, outs.index(free), [after[axis] for axis in outs])
    axes.set(node.output[0], result)


def segments(before: Shape, after: Shape) -> Iterator[tuple[list[int], list[int]]]:
    """Smallest runs of axes of both shapes that hold the same entries; an axis of size 1 may be a run of its own."""
    here, there = 0, 0
    while here < len(before) or there < len(after):
        ins, outs = [here][: len(before) - here], [there][: len(after) - there]
        if ins and before[here] == 1 and (not outs or after[there] != 1):
            outs = []
        elif outs and after[there] == 1 and (not ins or before[here] != 1):
            ins = []
        while ins and outs and (held := prod(before[a] for a in ins)) != (wanted := prod(after[a] for a in outs)):
            if held < wanted:
                ins.append(ins[-1] + 1)
            else:
                outs.append(outs[-1] + 1)
        yield ins, outs
        here, there = here + len(ins), there + len(outs)


def in_place(ins: list[int], outs: list[int]) -> bool:
    """Whether a run is one axis that stays where it is, which a Reshape's target can say with 0."""
    return ins == outs and len(ins) == 1


def _free_axis(axes: AxisLabels, node: NodeProto, outs: list[int]) -> int:
    """Which of the axes that one becomes is cut: the one that the module left open by -1, else the first."""
    target = axes.constants.get(node.input[1]) if len(node.input) > 1 and node.op_type == "Reshape" else None
    after = axes.shapes[node.output[0]]
    if target is not None:
        for axis in outs:
            if target[axis] == -1:
                return axis
    return next((axis for axis in outs if after[axis] > 1), outs[0])


def _merge(axes: AxisLabels, labels: list[AxisLabel], sizes: Shape) -> AxisLabel:
    """The label of axes that become one; all but the first that is cut never are."""
    cut = next((axis for axis, label in enumerate(labels) if axes.is_cut(label)), 0)
    axes.fix([label for axis, label in enumerate(labels) if axis != cut])
    kept = labels[cut] if labels else FIXED
    return AxisLabel(kept.label, kept.block * prod(sizes[cut + 1 :]), kept.repeat * prod(sizes[:cut]))


def split_label(axes: AxisLabels, label: AxisLabel, cut: int, sizes: list[int]) -> AxisLabel:
    """The label of part `cut` of an axis that becomes several of these sizes; where they do not nest, none is cut."""
    whole = axes.resolve(label)
    before, after = prod(sizes[:cut]), prod(sizes[cut + 1 :])
    blocks, repeats = sorted((whole.block, after)), sorted((whole.repeat, before))
    if blocks[1] % blocks[0] or repeats[1] % repeats[0] or prod(sizes) % (blocks[1] * repeats[1]):
        axes.fix([whole])
        return FIXED
    part = axes.fresh()
    axes.unite(
        AxisLabel(whole.label), AxisLabel(part.label, max(1, after // whole.block), max(1, before // whole.repeat))
    )
    return AxisLabel(part.label, max(1, whole.block // after), max(1, whole.repeat // before))


@gradient_rule("Transpose")
def transpose(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY with the axes put back."""
    order = permutation(node.proto, len(node.shape(node.inputs[0])))
    return [g.op("Transpose", dy, perm=[order.index(axis) for axis in range(len(order))])]


@axis_rule("Transpose")
def transpose_axes(axes: AxisLabels, node: NodeProto) -> None:
    """Labels move with their axes."""
    labels = axes.of(node.input[0])
    axes.set(node.output[0], [labels[axis] for axis in permutation(node, len(labels))])


def permutation(node: NodeProto, rank: int) -> list[int]:
    """The axes of a Transpose's input in the order of its output."""
    return list(attribute(node, "perm", range(rank - 1, -1, -1)))


@gradient_rule("Expand")
def expand(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX sums dY over the axes along which x was repeated."""
    return [sum_to(g, dy, node.shape(node.output), node.shape(node.inputs[0])), None]


@example_rule("Expand")
def expand_example(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
    """A parameter that every example gets a copy of."""
    return VectorGradient(example_sum(g, node, dy, index))


@axis_rule("Expand")
def expand_axes(axes: AxisLabels, node: NodeProto) -> None:
    """An axis that is repeated or new is never cut."""
    labels, before, after = axes.of(node.input[0]), axes.shapes[node.input[0]], axes.shapes[node.output[0]]
    new = len(after) - len(before)
    axes.fix([label for label, size, target in zip(labels, before, after[new:], strict=True) if size != target])
    axes.set(node.output[0], [*[FIXED] * new, *labels])


@gradient_rule("Shape")
def shape(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """Sizes have no gradient."""
    del g, node, dy
    return [None]


@axis_rule("Shape")
def shape_axes(axes: AxisLabels, node: NodeProto) -> None:
    """A vector of sizes."""
    axes.set(node.output[0], [FIXED])

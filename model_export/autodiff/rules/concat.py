"""Operators that join, split, cut out or pad along an axis."""

from __future__ import annotations

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import Node, attribute, axis_rule, gradient_rule, support_check
from model_export.autodiff.rules.shape import split_label
from model_export.axis_labels import FIXED, AxisLabel, AxisLabels


@gradient_rule("Concat")
def concat(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """Every dX is its part of dY."""
    axis = node.attribute("axis", 0) % len(node.shape(node.output))
    sizes = [node.shape(name)[axis] for name in node.inputs]
    if len(sizes) == 1:
        return [dy]
    even = len(set(sizes)) == 1
    parts = [g.op("Split", dy, *([] if even else [g.sizes(*sizes)]), axis=axis)]
    split = g.nodes[-1]
    parts += [g.add_output(split) for _ in sizes[1:]]
    return list(parts)


@axis_rule("Concat")
def concat_axes(axes: AxisLabels, node: NodeProto) -> None:
    """Parts of one size are cut together and repeat their neurons, as gates do; an axis of other parts is never cut."""
    rank = len(axes.shapes[node.output[0]])
    along = attribute(node, "axis", 0) % rank
    labels = [axes.of(name) for name in node.input]
    for axis in range(rank):
        for other in labels[1:]:
            if axis != along:
                axes.unite(labels[0][axis], other[axis])
    result = list(labels[0])
    result[along] = _joined(axes, [own[along] for own in labels], {axes.shapes[name][along] for name in node.input})
    axes.set(node.output[0], result)


def _joined(axes: AxisLabels, parts: list[AxisLabel], sizes: set[int]) -> AxisLabel:
    if len(sizes) > 1:
        axes.fix(parts)
        return FIXED
    for part in parts[1:]:
        axes.unite(parts[0], part)
    whole = axes.resolve(parts[0])
    return AxisLabel(whole.label, whole.block, whole.repeat * len(parts))


@gradient_rule("Split")
def split(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is the parts' gradients side by side; 0 for a part that nothing depends on."""
    del dy
    axis = node.attribute("axis", 0) % len(node.shape(node.inputs[0]))
    parts = [
        gradient or g.op("ConstantOfShape", g.op("Shape", part))
        for gradient, part in zip(node.arriving, node.proto.output, strict=True)
    ]
    joined = parts[0] if len(parts) == 1 else g.op("Concat", *parts, axis=axis)
    return [joined, *[None] * (len(node.inputs) - 1)]


@axis_rule("Split")
def split_axes(axes: AxisLabels, node: NodeProto) -> None:
    """Even parts of an axis are repetitions of its neurons; one of uneven or single parts is never cut."""
    labels, shape = list(axes.of(node.input[0])), axes.shapes[node.input[0]]
    along, count = attribute(node, "axis", 0) % len(shape), len(node.output)
    if len(node.input) > 1 or shape[along] == count or not axes.is_cut(labels[along]):
        axes.fix([labels[along]])
    else:
        labels[along] = split_label(axes, labels[along], 1, [count, shape[along] // count])
    for part in node.output:
        axes.set(part, labels)


@support_check("Slice")
def check_slice(node: Node) -> str | None:
    """Constant bounds and step 1, which `model_export.part_selection` has made two inputs."""
    if len(node.inputs) == 3:
        return None
    return "Slice with a step or with bounds that are not constant; use steps of 1, or a convolution's or pool's stride"


@gradient_rule("Slice")
def cut_out(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY with zeros around it."""
    x, starts, _ = node.inputs
    after = g.op("Sub", g.op("Sub", g.op("Shape", x), g.op("Shape", node.output)), starts)
    return [g.op("Pad", dy, g.op("Concat", starts, after, axis=0)), None, None]


@support_check("Pad")
def check_pad(node: Node) -> str | None:
    """Constants around, not reflections."""
    mode = node.attribute("mode", b"constant")
    if mode == b"constant":
        return None
    return f"Pad of mode {mode.decode()}; use padding with a constant"


@gradient_rule("Pad")
def pad(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY without what was added."""
    x, pads = node.inputs[:2]
    starts = g.op("Slice", pads, g.sizes(0), g.sizes(len(node.shape(x))))
    cropped = g.op("Slice", dy, starts, g.op("Add", starts, g.op("Shape", x)))
    return [cropped, *[None] * (len(node.inputs) - 1)]


@axis_rule("Slice", "Pad")
def resized_axes(axes: AxisLabels, node: NodeProto) -> None:
    """An axis that loses or gains entries is never cut."""
    labels, before, after = list(axes.of(node.input[0])), axes.shapes[node.input[0]], axes.shapes[node.output[0]]
    added = axes.constants.get(node.input[1]) if node.op_type == "Pad" else None
    for axis, label in enumerate(labels):
        moved = added is not None and (added[axis] or added[axis + len(labels)])
        if before[axis] != after[axis] or moved:
            axes.fix([label])
            labels[axis] = FIXED
    axes.set(node.output[0], labels)

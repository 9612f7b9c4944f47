"""Passes that give convolutions their padding as numbers: what `auto_pad` stands for, and zeros put around an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

Arrays = Mapping[str, NDArray[np.generic]]
Shapes = Mapping[str, tuple[int, ...]]


def with_explicit_padding(nodes: Sequence[NodeProto], shapes: Shapes) -> list[NodeProto]:
    """`Conv` with `pads` for `auto_pad`, which onnxruntime does not know together with dilations."""
    return [_explicit(node, shapes) for node in nodes]


def _explicit(node: NodeProto, shapes: Shapes) -> NodeProto:
    attributes = _attributes(node)
    automatic = attributes.pop("auto_pad", b"NOTSET")
    if node.op_type != "Conv" or automatic == b"NOTSET":
        return node
    image, kernel, output = (np.asarray(shapes[name][2:]) for name in (*node.input[:2], node.output[0]))
    stride, dilation = (np.asarray(attributes.get(name, 1)) for name in ("strides", "dilations"))
    reach = (output - 1) * stride + (kernel - 1) * dilation + 1
    total = np.maximum(0, reach - image) * (automatic != b"VALID")
    sides = [total // 2, total - total // 2]
    attributes["pads"] = np.concatenate(sides if automatic != b"SAME_LOWER" else sides[::-1]).tolist()
    return helper.make_node("Conv", list(node.input), list(node.output), name=node.name, **attributes)


def fuse_padding(nodes: Sequence[NodeProto], constants: Arrays) -> list[NodeProto]:
    """Each `Conv` reads what its image was before zeros were put around it, with asymmetric pads instead."""
    padded = {node.output[0]: node for node in nodes if _adds_zeros(node, constants)}
    fused = [_fused(node, padded, constants) for node in nodes]
    read = {name for node in fused for name in node.input}
    dead = {node.output[0] for node in padded.values()} - read
    return [node for node in fused if node.output[0] not in dead]


def _adds_zeros(node: NodeProto, constants: Arrays) -> bool:
    """Whether a node only puts zeros around the spatial axes, all of them from the third on."""
    if node.op_type != "Pad" or _attributes(node).get("mode", b"constant") != b"constant":
        return False
    pads, *others = node.input[1:]
    if pads not in constants or len(others) > 1 or any(np.any(constants.get(name, 1)) for name in others if name):
        return False
    begins, ends = np.split(constants[pads], 2)
    return bool(
        len(begins) > 2 and np.min(constants[pads].astype(np.int64)) >= 0 and not (begins[:2].any() or ends[:2].any())
    )


def _fused(node: NodeProto, padded: Mapping[str, NodeProto], constants: Arrays) -> NodeProto:
    if node.op_type != "Conv" or node.input[0] not in padded:
        return node
    attributes = _attributes(node)
    pad = padded[node.input[0]]
    begins, ends = np.split(constants[pad.input[1]].astype(np.int64), 2)
    added = np.concatenate([begins[2:], ends[2:]])
    attributes["pads"] = (added + np.asarray(attributes.get("pads", 0 * added))).tolist()
    inputs = [pad.input[0], *node.input[1:]]
    return helper.make_node("Conv", inputs, list(node.output), name=node.name, **attributes)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}

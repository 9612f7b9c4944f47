"""Common subexpressions (Cocke, 1970): what is computed twice is computed once."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto


def without_repetitions(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """Of nodes that do the same with the same inputs, the first; a graph's outputs are made by an `Identity` each."""
    first: dict[bytes, NodeProto] = {}
    aliases: dict[str, str] = {}
    kept = []
    for node in nodes:
        node.input[:] = [aliases.get(name, name) for name in node.input]
        known = node if node.op_type == "Identity" else first.setdefault(_what_it_does(node), node)
        if known is node:
            kept.append(node)
        else:
            aliases.update(zip(node.output, known.output, strict=True))
    return kept


def _what_it_does(node: NodeProto) -> bytes:
    nameless = NodeProto()
    nameless.CopyFrom(node)
    nameless.name = ""
    nameless.output[:] = [""] * len(node.output)
    described: bytes = nameless.SerializeToString(deterministic=True)
    return described

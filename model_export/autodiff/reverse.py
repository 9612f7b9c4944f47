"""Reverse-mode differentiation of a forward graph, rule by rule (Baydin et al., 2018, survey the method)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.gradient_sums import summed
from model_export.autodiff.registry import Node, Shape, find_gradient_rule


def differentiate(
    g: GraphBuilder,
    nodes: Iterable[NodeProto],
    shapes: Mapping[str, Shape],
    seeds: Mapping[str, str],
    wanted: Iterable[str],
) -> dict[str, str]:
    """Append the backward pass to `g` and return the gradient's name for each wanted tensor.

    `nodes` are the forward nodes, already in `g`, in topological order; `seeds` gives the gradient of some tensors. A
    tensor used more than once gets the sum of its gradients. Only what the wanted gradients need is computed.
    """
    forward = list(nodes)
    needed = _depends_on(forward, set(wanted))
    parts = {name: [seed] for name, seed in seeds.items()}
    for proto in reversed(forward):
        arriving = tuple(_total(g, parts, name) for name in proto.output)
        if not any(arriving):
            continue
        asked = tuple(name in needed for name in proto.input)
        rule = find_gradient_rule(proto.op_type)
        if not any(asked) or rule is None:
            continue
        results = rule(g, Node(proto, shapes, asked, arriving), arriving[0])
        for name, ask, result in zip(proto.input, asked, results, strict=True):
            if ask and result is not None:
                parts.setdefault(name, []).append(result)
    return {name: _total(g, parts, name) for name in wanted if name in parts}


def _total(g: GraphBuilder, parts: dict[str, list[str]], name: str) -> str:
    """The sum of a tensor's parts, which takes their place; "" where there are none."""
    if name not in parts:
        return ""
    parts[name] = [summed(g, parts[name])]
    return parts[name][0]


def _depends_on(nodes: Iterable[NodeProto], sources: set[str]) -> set[str]:
    reached = set(sources)
    for proto in nodes:
        if any(name in reached for name in proto.input):
            reached.update(proto.output)
    return reached

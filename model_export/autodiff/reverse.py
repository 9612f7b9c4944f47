"""Reverse-mode differentiation of a forward graph, rule by rule (Baydin et al., 2018, survey the method)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
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
    gradients = dict(seeds)
    for proto in reversed(forward):
        arriving = tuple(gradients.get(name, "") for name in proto.output)
        if not any(arriving):
            continue
        asked = tuple(name in needed for name in proto.input)
        rule = find_gradient_rule(proto.op_type)
        if not any(asked) or rule is None:
            continue
        results = rule(g, Node(proto, shapes, asked, arriving), arriving[0])
        for name, ask, result in zip(proto.input, asked, results, strict=True):
            if ask and result is not None:
                gradients[name] = g.op("Add", gradients[name], result) if name in gradients else result
    return {name: gradients[name] for name in wanted if name in gradients}


def _depends_on(nodes: Iterable[NodeProto], sources: set[str]) -> set[str]:
    reached = set(sources)
    for proto in nodes:
        if any(name in reached for name in proto.input):
            reached.update(proto.output)
    return reached

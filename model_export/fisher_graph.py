"""Fisher scores of neurons: the sum over examples of the squared gradient of each neuron's own parameters.

The empirical diagonal Fisher information (Kunstner, Balles and Hennig, 2019), summed over the parameters that a neuron
produces its output with. Per-example gradients are never kept for the whole model: each layer's are reduced at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import Node, Place, Shape, find_score_rule
from model_export.autodiff.reverse import differentiate
from model_export.errors import ExportError
from model_export.forward_graph import OUTPUT
from wire_protocol.layout import CutAxis, Layout, Parameter


def neuron_scores(
    g: GraphBuilder, nodes: Iterable[NodeProto], shapes: Mapping[str, Shape], layout: Layout, logits_gradient: str
) -> dict[str, str]:
    """Append the scores of every neuron group; `logits_gradient` is the sum of losses' gradient, not their mean's."""
    forward = list(nodes)
    produced = {
        parameter.name: (parameter, cut) for parameter in layout.parameters for cut in parameter.cuts if cut.produces
    }
    _require_single_use(forward, produced)
    consumers = [node for node in forward if any(name in produced for name in node.input)]
    deltas = differentiate(g, forward, shapes, {OUTPUT: logits_gradient}, [node.output[0] for node in consumers])
    scores: dict[str, str] = {}
    for node in consumers:
        for index, name in enumerate(node.input):
            if name in produced:
                _, cut = produced[name]
                place = Place(index, cut.axis)
                score = _per_neuron(g, _parameter_scores(g, Node(node, shapes, ()), deltas[node.output[0]], place), cut)
                scores[cut.group] = g.op("Add", scores[cut.group], score) if cut.group in scores else score
    return scores


def _parameter_scores(g: GraphBuilder, node: Node, delta: str, place: Place) -> str:
    rule = find_score_rule(node.proto.op_type)
    if rule is None:
        parameter = node.inputs[place.index]
        raise ExportError(
            f"{node.proto.op_type} at {node.proto.name} holds the parameter {parameter} but has no score rule"
        )
    return rule(g, node, delta, place)


def _per_neuron(g: GraphBuilder, scores: str, cut: CutAxis) -> str:
    if cut.block == 1:
        return scores
    return g.op("ReduceSum", g.op("Reshape", scores, g.sizes(-1, cut.block)), g.sizes(1), keepdims=0)


def _require_single_use(nodes: Iterable[NodeProto], produced: Mapping[str, tuple[Parameter, CutAxis]]) -> None:
    uses = Counter(name for node in nodes for name in node.input if name in produced)
    shared = sorted(name for name, count in uses.items() if count > 1)
    if shared:
        raise ExportError(
            f"parameters used more than once cannot be scored: {', '.join(shared)}; give each layer its own"
        )

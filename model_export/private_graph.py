"""Gradients of examples by themselves: joint clipping for private training, and Fisher scores of neurons.

"Book-keeping" (Bu, Wang, Zha and Karypis, 2022): one backward pass gives the deltas of every layer; norms follow from
deltas and activations, without a gradient for each example where that is cheaper; the clipped sum is one more product
of weighted deltas. The norm is joint over all parameters (Abadi et al., 2016): each example's gradient is scaled by
min(1, clip_norm / norm). Scores are the empirical diagonal Fisher information (Kunstner, Balles and Hennig, 2019) of
the scaled gradients, summed over the parameters that a neuron produces its output with: one example more or less moves
the vector of all scores by at most clip_norm^2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.gradient_sums import summed
from model_export.autodiff.per_example import (
    ExampleGradient,
    LookupGradient,
    OuterGradient,
    VectorGradient,
    combine,
    squares,
    weighted_product,
    weighted_sum,
)
from model_export.autodiff.registry import PARAMETER_VIEWS, Node, Shape, attribute, find_example_rule
from model_export.autodiff.reverse import differentiate
from model_export.errors import ExportError
from model_export.forward_graph import INPUT, OUTPUT
from wire_protocol.layout import CutAxis, Layout, Parameter

CLIP_NORM = "clip_norm"


@dataclass(frozen=True)
class Use:
    """A place where a node reads a parameter, directly or through views (in the order they are taken)."""

    node: NodeProto
    index: int
    parameter: str
    views: tuple[NodeProto, ...]


class ExamplePass:
    """Deltas and per-example squares of a graph; `output_gradient` is that of the losses' sum, not of their mean."""

    def __init__(
        self,
        g: GraphBuilder,
        nodes: Iterable[NodeProto],
        shapes: Mapping[str, Shape],
        layout: Layout,
        output_gradient: str,
    ) -> None:
        self._g = g
        self._shapes = shapes
        self._layout = layout
        forward = list(nodes)
        self._uses = list(_uses(forward, {parameter.name for parameter in layout.parameters}))
        outputs = dict.fromkeys(use.node.output[0] for use in self._uses)
        self._deltas = differentiate(g, forward, shapes, {OUTPUT: output_gradient}, outputs)
        self._uses = [use for use in self._uses if use.node.output[0] in self._deltas]
        self._scaled: dict[str, str] = {}
        self._of_uses = [self._example_gradient(use) for use in self._uses]
        self._gradients = self._combined()
        self._squares = {name: squares(g, gradient) for name, gradient in self._gradients.items()}

    def norms(self) -> str:
        """L2 norm of each example's whole gradient, float32 (examples,)."""
        g = self._g
        sums = [g.op("ReduceSum", name, g.sizes(1), keepdims=0) for name in self._squares.values()]
        return g.op("Sqrt", g.op("Sum", *sums))

    def clipped_sums(self, factors: str) -> dict[str, str]:
        """Sum over examples of factor x gradient, for every parameter: of gradients that were made, else of deltas."""
        sums: dict[str, list[str]] = {}
        for name, gradient in self._gradients.items():
            if isinstance(gradient, OuterGradient) and self._is_several_products(name):
                sums[name] = [weighted_product(self._g, gradient, factors)]
        joined = set(sums)
        for use, gradient in zip(self._uses, self._of_uses, strict=True):
            if use.parameter not in joined:
                sums.setdefault(use.parameter, []).append(self._clipped(use, gradient, factors))
        return {name: summed(self._g, parts) for name, parts in sums.items()}

    def _is_several_products(self, name: str) -> bool:
        """Whether a parameter is the transposed matrix of several products, whose factors are joined already."""
        uses = [use for use in self._uses if use.parameter == name]
        plain = (use.node.op_type == "Gemm" and attribute(use.node, "transB", 0) and not use.views for use in uses)
        return len(uses) > 1 and all(plain)

    def _clipped(self, use: Use, gradient: ExampleGradient, factors: str) -> str:
        if isinstance(gradient, OuterGradient | LookupGradient):
            return self._of_deltas(use, factors)
        return self._through_views(use, weighted_sum(self._g, gradient, factors, use.node.input[use.index]))

    def scores(self, factors: str) -> dict[str, str]:
        """For each neuron group the sum over examples of factor^2 x squared gradient, float32 (width,)."""
        g = self._g
        weights = g.op("Unsqueeze", g.op("Mul", factors, factors), g.sizes(1))
        scores: dict[str, str] = {}
        for parameter in self._layout.parameters:
            for cut in parameter.cuts:
                if cut.produces:
                    products = g.op("Mul", self._squares[parameter.name], weights)
                    total = g.op("ReduceSum", products, g.sizes(0), keepdims=0)
                    score = _per_neuron(g, total, cut, self._around(parameter, cut.axis))
                    scores[cut.group] = g.op("Add", scores[cut.group], score) if cut.group in scores else score
        return scores

    def _around(self, parameter: Parameter, axis: int) -> tuple[int, int]:
        """Elements of a parameter before and after an axis, where its squares are not summed over them yet."""
        if isinstance(self._gradients[parameter.name], VectorGradient):
            return prod(parameter.shape[:axis]), prod(parameter.shape[axis + 1 :])
        return 1, 1

    def _example_gradient(self, use: Use) -> ExampleGradient:
        rule = find_example_rule(use.node.op_type)
        if rule is None:
            raise ExportError(
                f"{use.node.op_type} at {use.node.name} holds the parameter {use.parameter}, "
                "whose gradient for one example is not known"
            )
        return rule(self._g, Node(use.node, self._shapes), self._deltas[use.node.output[0]], use.index)

    def _combined(self) -> dict[str, ExampleGradient]:
        found: dict[str, list[ExampleGradient]] = {}
        for use, gradient in zip(self._uses, self._of_uses, strict=True):
            found.setdefault(use.parameter, []).append(gradient)
        return {name: combine(self._g, gradients) for name, gradients in found.items()}

    def _of_deltas(self, use: Use, factors: str) -> str:
        g, output = self._g, use.node.output[0]
        if output not in self._scaled:
            column = g.op("Unsqueeze", factors, g.sizes(*range(1, len(self._shapes[output]))))
            self._scaled[output] = g.op("Mul", self._deltas[output], column)
        nodes = [*use.views, use.node]
        return differentiate(g, nodes, self._shapes, {output: self._scaled[output]}, [use.parameter])[use.parameter]

    def _through_views(self, use: Use, gradient: str) -> str:
        if not use.views:
            return gradient
        seen = use.node.input[use.index]
        return differentiate(self._g, use.views, self._shapes, {seen: gradient}, [use.parameter])[use.parameter]


def clip_factors(g: GraphBuilder, norms: str) -> str:
    """min(1, clip_norm / norm) for each example; 1 where the norm is 0 or clip_norm infinite."""
    return g.op("Min", g.constant(1.0), g.op("Div", CLIP_NORM, norms))


def _uses(nodes: Iterable[NodeProto], parameters: set[str]) -> Iterator[Use]:
    views: dict[str, tuple[str, tuple[NodeProto, ...]]] = {name: (name, ()) for name in parameters}
    varying = {INPUT}
    for node in nodes:
        if node.op_type in PARAMETER_VIEWS and node.input[0] in views:
            parameter, chain = views[node.input[0]]
            views[node.output[0]] = (parameter, (*chain, node))
            continue
        if not varying.isdisjoint(node.input):
            varying.update(node.output)
        for index, name in enumerate(node.input):
            if name in views:
                if node.output[0] not in varying:
                    raise ExportError(
                        f"{node.op_type} at {node.name} changes the parameter {views[name][0]} before an example meets "
                        "it, so that its gradient for one example is not known; apply it to activations instead"
                    )
                yield Use(node, index, *views[name])


def _per_neuron(g: GraphBuilder, scores: str, cut: CutAxis, around: tuple[int, int]) -> str:
    copies, entries = around[0] * cut.repeat, cut.block * around[1]
    if copies == entries == 1:
        return scores
    return g.op("ReduceSum", g.op("Reshape", scores, g.sizes(copies, -1, entries)), g.sizes(0, 2), keepdims=0)

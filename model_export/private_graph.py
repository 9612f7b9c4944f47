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

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.example_copies import ExampleCopies
from model_export.autodiff.gradient_sums import summed
from model_export.autodiff.parameter_uses import Use, find_uses
from model_export.autodiff.per_example import (
    ExampleGradient,
    LookupGradient,
    OuterGradient,
    RowsGradient,
    VectorGradient,
    combine,
    elements,
    share_a_form,
    squares,
    weighted_product,
    weighted_sum,
)
from model_export.autodiff.registry import Node, Shape, attribute, find_example_rule, find_whole_rule
from model_export.autodiff.reverse import differentiate
from model_export.errors import ExportError
from model_export.forward_graph import ForwardGraph
from model_export.torch_trace import OUTPUT
from wire_protocol.layout import CutAxis, Layout, Parameter

CLIP_NORM = "clip_norm"

_SAME_ORDER = {"Reshape", "Squeeze", "Unsqueeze", "Cast"}
"""Views that leave a parameter's entries in their order."""


class ExamplePass:
    """Deltas and per-example squares of a graph; `output_gradient` is that of the losses' sum, not of their mean.

    A parameter that examples meet in one form has its gradients in the form that is cheapest. One that they meet as
    what is computed from it, or in several forms, has the elements of each example's gradient, and `_whole` has them.
    """

    def __init__(self, g: GraphBuilder, graph: ForwardGraph, layout: Layout, output_gradient: str) -> None:
        self._g = g
        self._graph = graph
        self._shapes = graph.shapes
        self._layout = layout
        found = find_uses(graph.nodes, [parameter.name for parameter in layout.parameters])
        outputs = dict.fromkeys(use.node.output[0] for use in found.uses)
        self._deltas = differentiate(g, graph.nodes, graph.shapes, {OUTPUT: output_gradient}, outputs)
        uses = [use for use in found.uses if use.node.output[0] in self._deltas]
        self._copies = ExampleCopies(g, found.of_parameters, graph.shapes, graph.constants)
        self._scaled: dict[str, str] = {}
        self._of_uses = {
            parameter: [(use, self._example_gradient(use)) for use in own] for parameter, own in _direct(uses)
        }
        self._whole = self._whole_gradients(uses)
        self._gradients = {
            **{name: combine(g, [gradient for _, gradient in own]) for name, own in self._in_one_form()},
            **self._whole,
        }
        self._squares = {name: squares(g, gradient) for name, gradient in self._gradients.items()}

    def norms(self) -> str:
        """L2 norm of each example's whole gradient, float32 (examples,)."""
        g = self._g
        sums = [g.op("ReduceSum", name, g.sizes(1), keepdims=0) for name in self._squares.values()]
        return g.op("Sqrt", g.op("Sum", *sums))

    def clipped_sums(self, factors: str) -> dict[str, str]:
        """Sum over examples of factor x gradient, for every parameter: of gradients that were made, else of deltas."""
        sums = {name: [weighted_sum(self._g, whole, factors, name)] for name, whole in self._whole.items()}
        for name, own in self._in_one_form():
            joined = self._gradients[name]
            if isinstance(joined, OuterGradient) and _are_several_products(own):
                sums[name] = [weighted_product(self._g, joined, factors)]
            else:
                sums[name] = [self._clipped(use, gradient, factors) for use, gradient in own]
        return {name: summed(self._g, parts) for name, parts in sums.items()}

    def _clipped(self, use: Use, gradient: ExampleGradient, factors: str) -> str:
        if isinstance(gradient, OuterGradient | LookupGradient):
            return self._of_deltas(use, factors)
        return self._through_views(use, weighted_sum(self._g, gradient, factors, use.seen))

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
                    score = _per_neuron(g, self._along(parameter, cut.axis, total), cut)
                    scores[cut.group] = g.op("Add", scores[cut.group], score) if cut.group in scores else score
        return scores

    def _along(self, parameter: Parameter, axis: int, total: str) -> str:
        """Sums over all other axes of a parameter, where its squares are not summed over them yet."""
        others = [other for other in range(len(parameter.shape)) if other != axis]
        if not others or not isinstance(self._gradients[parameter.name], VectorGradient):
            return total
        entries = self._g.op("Reshape", total, self._g.op("Shape", parameter.name))
        return self._g.op("ReduceSum", entries, self._g.sizes(*others), keepdims=0)

    def _example_gradient(self, use: Use) -> ExampleGradient:
        rule = find_example_rule(use.node.op_type)
        if rule is None:
            raise ExportError(
                f"{use.node.op_type} at {use.node.name} holds the parameter {', '.join(sorted(use.parameters))}, "
                "whose gradient for one example is not known"
            )
        return rule(self._g, Node(use.node, self._shapes), self._deltas[use.node.output[0]], use.index)

    def _in_one_form(self) -> Iterator[tuple[str, list[tuple[Use, ExampleGradient]]]]:
        return ((name, own) for name, own in self._of_uses.items() if name not in self._whole)

    def _whole_gradients(self, uses: list[Use]) -> dict[str, VectorGradient]:
        """Of the parameters that need them, by the gradients of all that is seen of these."""
        simple = {name for name, own in self._of_uses.items() if _are_simple(own, self._shapes)}
        simple -= {name for use in uses if use.views is None for name in use.parameters}
        needing = dict.fromkeys(name for use in uses for name in sorted(use.parameters - simple))
        if not needing:
            return {}
        seeds: dict[str, str] = {}
        for use in uses:
            if not needing.keys().isdisjoint(use.parameters):
                gradient = self._elements(use)
                seeds[use.seen] = self._g.op("Add", seeds[use.seen], gradient) if use.seen in seeds else gradient
        found = self._copies.gradients(seeds, needing)
        return {name: VectorGradient(gradient) for name, gradient in found.items()}

    def _elements(self, use: Use) -> str:
        """The gradient of what a node sees for each example, in the order of its elements."""
        rule = find_whole_rule(use.node.op_type)
        if rule is None:
            return elements(self._g, self._example_gradient(use))
        return rule(self._g, Node(use.node, self._shapes), self._deltas[use.node.output[0]], use.index)

    def _of_deltas(self, use: Use, factors: str) -> str:
        g, output = self._g, use.node.output[0]
        if output not in self._scaled:
            column = g.op("Unsqueeze", factors, g.sizes(*range(1, len(self._shapes[output]))))
            self._scaled[output] = g.op("Mul", self._deltas[output], column)
        nodes = [*(use.views or ()), use.node]
        return differentiate(g, nodes, self._shapes, {output: self._scaled[output]}, [use.parameter])[use.parameter]

    def _through_views(self, use: Use, gradient: str) -> str:
        if not use.views:
            return gradient
        return differentiate(self._g, use.views, self._shapes, {use.seen: gradient}, [use.parameter])[use.parameter]


def clip_factors(g: GraphBuilder, norms: str) -> str:
    """min(1, clip_norm / norm) for each example; 1 where the norm is 0 or clip_norm infinite."""
    return g.op("Min", g.constant(1.0), g.op("Div", CLIP_NORM, norms))


def _direct(uses: Iterable[Use]) -> list[tuple[str, list[Use]]]:
    """Uses of one parameter or a view of it, by parameter."""
    found: dict[str, list[Use]] = {}
    for use in uses:
        if use.views is not None:
            found.setdefault(use.parameter, []).append(use)
    return list(found.items())


def _are_simple(own: list[tuple[Use, ExampleGradient]], shapes: Mapping[str, Shape]) -> bool:
    """Whether gradients of a parameter are in one form, and its elements in their order where they are kept."""
    if not share_a_form([gradient for _, gradient in own]):
        return False
    first, views = own[0][1], [tuple(view.op_type for view in use.views or ()) for use, _ in own]
    if isinstance(first, VectorGradient):
        return all(_SAME_ORDER.issuperset(chain) for chain in views)
    if isinstance(first, RowsGradient) and len({shapes[use.node.input[0]] for use, _ in own}) > 1:
        return False
    return len(set(views)) == 1 and not (_SAME_ORDER - {"Cast"}).intersection(views[0])


def _are_several_products(own: list[tuple[Use, ExampleGradient]]) -> bool:
    """Whether a parameter is the transposed matrix of several products, whose factors are joined already."""
    plain = (use.node.op_type == "Gemm" and attribute(use.node, "transB", 0) and not use.views for use, _ in own)
    return len(own) > 1 and all(plain)


def _per_neuron(g: GraphBuilder, scores: str, cut: CutAxis) -> str:
    if cut.repeat == cut.block == 1:
        return scores
    return g.op("ReduceSum", g.op("Reshape", scores, g.sizes(cut.repeat, -1, cut.block)), g.sizes(0, 2), keepdims=0)

"""The order of a graph's nodes, by which onnxruntime decides when it runs them.

It goes depth first through what the nodes that nobody reads depend on, the last of them in the file first. So the
makers of outputs go last, in the order of layers: the gradient of the last layer's weights is taken first, and each
layer's as soon as its deltas are there, still in the caches. The other way around all deltas would be kept until the
end. Measured with onnxruntime 1.19.2, milliseconds a step: MobileNet 46.2 and in this order 44.0, DS-CNN 13.6 and 12.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from model_export.autodiff.builder import GraphBuilder


def make_outputs_last(g: GraphBuilder, outputs: Iterable[str]) -> None:
    """Move what makes each output to the end, in this order; an `Identity` that only renames it goes away."""
    readers = Counter(name for node in g.nodes for name in node.input)
    makers = {name: node for node in g.nodes for name in node.output}
    last, renamed = [], set()
    for output in outputs:
        node = makers[output]
        maker = makers.get(node.input[0])
        if node.op_type == "Identity" and maker and readers[node.input[0]] == len(maker.output) == 1:
            maker.output[0] = output
            renamed.add(id(node))
            node = maker
        last.append(node)
    elsewhere = renamed | {id(node) for node in last}
    g.nodes = [node for node in g.nodes if id(node) not in elsewhere] + last

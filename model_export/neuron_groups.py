"""Neuron groups from the forward graph: which axes of which parameters must be cut together.

Every axis of every tensor gets a label; operators unite labels. A class of labels that lies on parameter axes and never
meets the input, the output, the batch or a spatial axis is a neuron group. It is named after the first parameter that
produces it.
"""

from __future__ import annotations

from model_export.autodiff.registry import find_axis_rule
from model_export.axis_labels import FIXED, AxisLabels
from model_export.forward_graph import ForwardGraph
from model_export.torch_trace import OUTPUT
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter


def label_axes(graph: ForwardGraph) -> AxisLabels:
    """Labels of the axes of all tensors of a graph whose operators are all supported."""
    axes = AxisLabels(graph)
    for node in graph.nodes:
        find_axis_rule(node.op_type)(axes, node)
    axes.fix(axes.of(OUTPUT))
    return axes


def discover_layout(graph: ForwardGraph, axes: AxisLabels | None = None) -> Layout:
    """The layout of a graph by the labels of its axes (default: `label_axes`); parameters in the module's order."""
    axes = axes or label_axes(graph)
    names = _group_names(graph, axes)
    sizes: dict[str, int] = {}
    parameters = []
    for name, array in graph.parameters.items():
        cuts = []
        for axis, label in enumerate(axes.of(name)):
            found = axes.resolve(label)
            if found.label in names:
                group = names[found.label]
                cut = CutAxis(axis, group, found.block, found.repeat, produces=label.label not in axes.reads)
                cuts.append(cut)
                sizes[group] = array.shape[axis] // cut.entries
        parameters.append(Parameter(name, array.shape, tuple(cuts), axes.uses.get(name, 0)))
    return Layout(tuple(parameters), tuple(NeuronGroup(group, size) for group, size in sizes.items()))


def _group_names(graph: ForwardGraph, axes: AxisLabels) -> dict[int, str]:
    """Class of labels -> name of the layer whose parameter first produces it, told apart by a number if need be."""
    names: dict[int, str] = {}
    for parameter in graph.parameters:
        layer = parameter.rpartition(".")[0] or parameter
        for label in axes.of(parameter):
            found = axes.resolve(label).label
            if found != FIXED.label and found not in names and label.label not in axes.reads:
                earlier = list(names.values())
                number = sum(name == layer or name.startswith(f"{layer}#") for name in earlier) + 1
                names[found] = layer if number == 1 else f"{layer}#{number}"
    return names

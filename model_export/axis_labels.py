"""Labels for the axes of all tensors, united where axes must be cut together.

A label's class stands for the neurons of one group; `block` and `repeat` say how an axis is made of them. `FIXED` is
the class of every axis that is never cut, and swallows any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_export.torch_trace import INPUT

if TYPE_CHECKING:
    from model_export.forward_graph import ForwardGraph


@dataclass(frozen=True)
class AxisLabel:
    """With n entries of the labelled axis, entry (copy * n + i) * block + offset of this axis belongs to entry i."""

    label: int
    block: int = 1
    repeat: int = 1

    def within(self, outer: AxisLabel) -> AxisLabel:
        """This axis in terms of the axis that `outer` describes this label's own axis by."""
        return AxisLabel(outer.label, self.block * outer.block, self.repeat * outer.repeat)


FIXED = AxisLabel(0)
"""The label of every axis that is never cut."""


class AxisLabels:
    """Labels of all tensors' axes, the unions found so far, and which parameter axes are only read.

    A weighted union-find: a label's parent comes with how many of its entries make one entry of the parent.
    """

    def __init__(self, graph: ForwardGraph) -> None:
        self.shapes = graph.shapes
        self.constants = graph.constants
        self.reads: set[int] = set()
        self.uses: dict[str, int] = {}
        self._parents = [FIXED]
        self._owners: dict[int, str] = {}
        self._tensors = {INPUT: [FIXED] * (len(graph.input_shape) + 1)}
        for name in graph.constants:
            self._tensors[name] = [FIXED] * len(graph.shapes[name])
        for name in graph.parameters:
            self._tensors[name] = [self.fresh() for _ in graph.shapes[name]]
            self._owners.update({label.label: name for label in self._tensors[name]})

    def of(self, tensor: str) -> list[AxisLabel]:
        """Labels of a tensor's axes."""
        return self._tensors[tensor]

    def set(self, tensor: str, labels: Sequence[AxisLabel]) -> None:
        """Label the axes of a node's output."""
        self._tensors[tensor] = list(labels)

    def read(self, weight: AxisLabel, activation: AxisLabel, uses: int) -> None:
        """Unite a weight's input axis with the activation it reads; each weight is used `uses` times an example."""
        self.unite(activation, weight)
        self.reads.add(weight.label)
        if weight.label in self._owners:
            parameter = self._owners[weight.label]
            self.uses[parameter] = self.uses.get(parameter, 0) + uses

    def resolve(self, label: AxisLabel) -> AxisLabel:
        """The class of a label, with the entries of the axis that make one entry of the class."""
        while self._parents[label.label].label != label.label:
            label = label.within(self._parents[label.label])
        return label

    def is_cut(self, label: AxisLabel) -> bool:
        """Whether the axis may have fewer entries in a sub-model, as far as is known by now."""
        return self.resolve(label).label != FIXED.label

    def unite(self, first: AxisLabel, second: AxisLabel) -> None:
        """Cut both axes together from now on, in the coarser of their structures; never, where they do not nest."""
        one, other = self.resolve(first), self.resolve(second)
        fine, coarse = sorted((one, other), key=lambda label: (label.block * label.repeat, label.block))
        nested = coarse.block % fine.block == 0 and coarse.repeat % fine.repeat == 0
        if FIXED.label in (fine.label, coarse.label) or not nested:
            self.fix([fine, coarse])
        elif fine.label != coarse.label:
            inner = AxisLabel(coarse.label, coarse.block // fine.block, coarse.repeat // fine.repeat)
            self._parents[fine.label] = inner
        elif fine != coarse:
            self.fix([fine])

    def fix(self, labels: Sequence[AxisLabel]) -> None:
        """Never cut these axes."""
        for label in labels:
            self._parents[self.resolve(label).label] = FIXED

    def fresh(self) -> AxisLabel:
        """A label of its own, united with nothing yet."""
        label = AxisLabel(len(self._parents))
        self._parents.append(label)
        return label

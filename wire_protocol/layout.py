"""Which parameters a model has, and which of their axes belong to which neuron group.

A neuron group is a set of parameter axes that must be cut together: the out-axis of one layer, the in-axis of the
next. `Layout` is a frozen value, written once at export and read by both ends; it never changes during a run.

Invariants: names are unique; every cut names a known group and an axis inside the shape; the axis length is the
group's size times the entries of a neuron.
"""

from __future__ import annotations

from math import prod

import msgspec

from wire_protocol.errors import require

MAX_GROUPS = 1024
"""Neuron groups of a model; an update names each of them."""


class CutAxis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One parameter axis that a neuron group cuts.

    With n neurons, entry `(copy * n + neuron) * block + offset` of the axis belongs to `neuron`, for every copy below
    `repeat` and every offset below `block`. `block` > 1 after a flatten, where one channel becomes height x width
    inputs, and where a neuron is a whole attention head; `repeat` > 1 where one unit has several gates. `produces`
    says that this axis holds the neurons' own parameters (incoming weights and bias), as opposed to what later layers
    read from them.
    """

    axis: int
    group: str
    block: int = 1
    repeat: int = 1
    produces: bool = False

    @property
    def entries(self) -> int:
        """Entries of the axis that belong to one neuron."""
        return self.repeat * self.block


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A trainable tensor. `uses_per_example` is its multiply-accumulates per element and example (0 for a bias)."""

    name: str
    shape: tuple[int, ...]
    cuts: tuple[CutAxis, ...] = ()
    uses_per_example: int = 0

    def __post_init__(self) -> None:
        require(bool(self.name), "parameter name", self.name, "not empty")
        require(all(size > 0 for size in self.shape), f"shape of {self.name}", self.shape, "positive sizes")
        require(self.uses_per_example >= 0, f"uses_per_example of {self.name}", self.uses_per_example, "at least 0")
        axes = [cut.axis for cut in self.cuts]
        require(len(set(axes)) == len(axes), f"cut axes of {self.name}", axes, "distinct")

    @property
    def reads_neurons(self) -> bool:
        """Whether it is a weight of what some group of neurons puts out."""
        return any(not cut.produces for cut in self.cuts)


class NeuronGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named set of `size` neurons that are kept or dropped one by one."""

    name: str
    size: int

    def __post_init__(self) -> None:
        require(self.size > 0, f"size of neuron group {self.name}", self.size, "at least 1")


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True, cache_hash=True):
    """All parameters of a model in wire order, and its neuron groups."""

    parameters: tuple[Parameter, ...]
    groups: tuple[NeuronGroup, ...] = ()

    def __post_init__(self) -> None:
        sizes = {group.name: group.size for group in self.groups}
        names = [parameter.name for parameter in self.parameters]
        require(bool(names), "parameters", names, "at least one")
        require(len(set(names)) == len(names), "parameter names", names, "distinct")
        require(len(self.groups) <= MAX_GROUPS, "neuron groups", len(self.groups), f"at most {MAX_GROUPS}")
        require(len(sizes) == len(self.groups), "neuron group names", [g.name for g in self.groups], "distinct")
        for parameter in self.parameters:
            for cut in parameter.cuts:
                _require_cut_fits(parameter, cut, sizes)

    @property
    def group_sizes(self) -> dict[str, int]:
        """Neurons in each group."""
        return {group.name: group.size for group in self.groups}

    @property
    def element_count(self) -> int:
        """Scalars in the full model."""
        return sum(prod(parameter.shape) for parameter in self.parameters)


def _require_cut_fits(parameter: Parameter, cut: CutAxis, sizes: dict[str, int]) -> None:
    where = f"of {parameter.name}"
    require(cut.group in sizes, f"cut group {where}", cut.group, f"one of {sorted(sizes)}")
    require(0 <= cut.axis < len(parameter.shape), f"cut axis {where}", cut.axis, f"0 to {len(parameter.shape) - 1}")
    require(cut.block >= 1, f"block {where}", cut.block, "at least 1")
    require(cut.repeat >= 1, f"repeat {where}", cut.repeat, "at least 1")
    length = sizes[cut.group] * cut.entries
    require(parameter.shape[cut.axis] == length, f"axis {cut.axis} {where}", parameter.shape[cut.axis], f"{length}")

"""Where examples meet parameters: as they are, through views, or as what is computed from them alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from onnx import NodeProto

from model_export.autodiff.registry import PARAMETER_VIEWS
from model_export.torch_trace import INPUT


@dataclass(frozen=True)
class Use:
    """A place where a node reads `seen`, which is made of `parameters`.

    Of one parameter alone, seen through `views` in the order they are taken; without `views` (None) otherwise.
    """

    node: NodeProto
    index: int
    parameters: frozenset[str]
    views: tuple[NodeProto, ...] | None

    @property
    def seen(self) -> str:
        """The tensor that the node reads."""
        return str(self.node.input[self.index])

    @property
    def parameter(self) -> str:
        """The only parameter."""
        [name] = self.parameters
        return name


@dataclass
class ParameterUses:
    """All uses of parameters, and the nodes that read nothing but parameters and constants."""

    uses: list[Use] = field(default_factory=list)
    of_parameters: list[NodeProto] = field(default_factory=list)


@dataclass(frozen=True)
class _Made:
    parameters: frozenset[str]
    views: tuple[NodeProto, ...] | None = ()


def find_uses(nodes: Iterable[NodeProto], parameters: Iterable[str]) -> ParameterUses:
    """Uses in the order of the graph."""
    made = {name: _Made(frozenset({name})) for name in parameters}
    found, varying = ParameterUses(), {INPUT}
    for node in nodes:
        read = [made[name] for name in node.input if name in made]
        if not varying.isdisjoint(node.input):
            varying.update(node.output)
            for index, name in enumerate(node.input):
                if name in made:
                    found.uses.append(Use(node, index, made[name].parameters, made[name].views))
        elif read:
            found.of_parameters.append(node)
            first = made.get(node.input[0])
            seen = node.op_type in PARAMETER_VIEWS and first is not None and first.views is not None
            views = (*first.views, node) if seen and first is not None and first.views is not None else None
            whole = frozenset[str]().union(*(one.parameters for one in read))
            made.update(dict.fromkeys(node.output, _Made(whole, views)))
    return found

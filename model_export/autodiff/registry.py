"""Which operators the gradient compiler knows, and what it knows of each.

A *gradient rule* maps the gradient of a node's output to gradients of its inputs. An *axis rule* says which axes of
inputs and outputs are cut together; operators without one are elementwise. An operator that takes parameters has an
*example rule*: the gradient of a parameter for each example by itself, in a form from which norms are cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from onnx import NodeProto, helper

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.per_example import ExampleGradient
from model_export.axis_labels import AxisLabel, AxisLabels

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """A forward node with what a rule needs: static shapes (traced batch size along the batch axis), `wanted`, whether
    each input's gradient is asked for, and `arriving`, the gradient of each output, "" where there is none."""

    proto: NodeProto
    shapes: Mapping[str, Shape]
    wanted: tuple[bool, ...] = ()
    arriving: tuple[str, ...] = ()

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
        return list(self.proto.input)

    @property
    def output(self) -> str:
        """Name of the first output."""
        return str(self.proto.output[0])

    def shape(self, name: str) -> Shape:
        """Static shape of a tensor; empty where it is not known."""
        return self.shapes.get(name, ())

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute's value or its default in the ONNX specification."""
        return attribute(self.proto, name, default)


GradientRule = Callable[[GraphBuilder, Node, str], list[str | None]]
ExampleRule = Callable[[GraphBuilder, Node, str, int], ExampleGradient]
WholeRule = Callable[[GraphBuilder, Node, str, int], str]
AxisRule = Callable[[AxisLabels, NodeProto], None]
SupportCheck = Callable[[Node], str | None]

_gradient_rules: dict[str, GradientRule] = {}
_example_rules: dict[str, ExampleRule] = {}
_whole_rules: dict[str, WholeRule] = {}
_axis_rules: dict[str, AxisRule] = {}
_support_checks: dict[str, SupportCheck] = {}

PARAMETER_VIEWS = ("Transpose", "Unsqueeze", "Reshape", "Squeeze", "Cast")
"""Operators that only show a parameter's entries in another shape: what reads the view reads the parameter."""


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute's value or its default in the ONNX specification."""
    for candidate in node.attribute:
        if candidate.name == name:
            return helper.get_attribute_value(candidate)
    return default


def gradient_rule(*op_types: str) -> Callable[[GradientRule], GradientRule]:
    """Register `rule(builder, node, output_gradient) -> input gradients`; None where one is not wanted."""

    def register(rule: GradientRule) -> GradientRule:
        _gradient_rules.update(dict.fromkeys(op_types, rule))
        return rule

    return register


def example_rule(*op_types: str) -> Callable[[ExampleRule], ExampleRule]:
    """Register `rule(builder, node, output_gradient, input index) -> gradient for each example`."""

    def register(rule: ExampleRule) -> ExampleRule:
        _example_rules.update(dict.fromkeys(op_types, rule))
        return rule

    return register


def whole_rule(*op_types: str) -> Callable[[WholeRule], WholeRule]:
    """Register `rule(builder, node, output_gradient, input index) -> gradient for each example`, (examples, elements).

    For operators whose example rule gives elements in an order or in parts of its own.
    """

    def register(rule: WholeRule) -> WholeRule:
        _whole_rules.update(dict.fromkeys(op_types, rule))
        return rule

    return register


def axis_rule(*op_types: str) -> Callable[[AxisRule], AxisRule]:
    """Register `rule(labels, node)`, which unites labels and sets those of the outputs."""

    def register(rule: AxisRule) -> AxisRule:
        _axis_rules.update(dict.fromkeys(op_types, rule))
        return rule

    return register


def support_check(*op_types: str) -> Callable[[SupportCheck], SupportCheck]:
    """Register `check(node)`: None where the rules cover the node's attributes, else what to use instead."""

    def register(check: SupportCheck) -> SupportCheck:
        _support_checks.update(dict.fromkeys(op_types, check))
        return check

    return register


def load_rules() -> None:
    """Register the rules of all families; more than once does no harm."""
    import_module("model_export.autodiff.rules")


def find_gradient_rule(op_type: str) -> GradientRule | None:
    """The gradient rule of an operator, if it has one."""
    return _gradient_rules.get(op_type)


def find_example_rule(op_type: str) -> ExampleRule | None:
    """The example rule of an operator, if it has one."""
    return _example_rules.get(op_type)


def find_whole_rule(op_type: str) -> WholeRule | None:
    """The rule for whole gradients of examples, if an operator needs one."""
    return _whole_rules.get(op_type)


def find_axis_rule(op_type: str) -> AxisRule:
    """The axis rule of an operator; elementwise unless it has one of its own."""
    return _axis_rules.get(op_type, unite_elementwise)


def supported_operators() -> list[str]:
    """Names of the operators with a gradient rule."""
    return sorted(_gradient_rules)


def objection(node: Node) -> str | None:
    """Why this node cannot be differentiated though its operator has a rule, or None."""
    check = _support_checks.get(node.proto.op_type)
    return check(node) if check else None


def unite_elementwise(axes: AxisLabels, node: NodeProto) -> None:
    """Axes are aligned from the right; an axis of size 1 that is stretched is never cut."""
    target = axes.shapes[node.output[0]]
    aligned: list[list[AxisLabel]] = [[] for _ in target]
    for name in filter(None, node.input):
        shape = axes.shapes[name]
        for axis, label in zip(range(-len(shape), 0), axes.of(name), strict=True):
            if shape[axis] == target[axis]:
                aligned[axis].append(label)
            else:
                axes.fix([label])
    for first, *others in aligned:
        for other in others:
            axes.unite(first, other)
    axes.set(node.output[0], [labels[0] for labels in aligned])

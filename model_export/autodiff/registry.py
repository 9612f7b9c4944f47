"""Which operators the gradient compiler knows: a gradient rule each and, where it has parameters, a score rule.

A gradient rule maps the gradient of a node's output to gradients of its inputs. A score rule gives, for one parameter
input, the sum over examples of the squared per-example gradient of each entry of the axis that its neurons produce:
the empirical Fisher information (Kunstner, Balles and Hennig, 2019) summed over a neuron's own parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, helper

from model_export.autodiff.builder import GraphBuilder

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """A forward node with what a rule needs: static shapes (traced batch size along the batch axis), and `wanted`,
    whether each input's gradient is asked for."""

    proto: NodeProto
    shapes: Mapping[str, Shape]
    wanted: tuple[bool, ...]

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


@dataclass(frozen=True)
class Place:
    """Where a scored parameter stands: which input of its node it is, and which of its axes its neurons produce."""

    index: int
    axis: int


GradientRule = Callable[[GraphBuilder, Node, str], list[str | None]]
ScoreRule = Callable[[GraphBuilder, Node, str, Place], str]
SupportCheck = Callable[[Node], str | None]

_gradient_rules: dict[str, GradientRule] = {}
_score_rules: dict[str, ScoreRule] = {}
_support_checks: dict[str, SupportCheck] = {}


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute's value or its default in the ONNX specification."""
    for candidate in node.attribute:
        if candidate.name == name:
            return helper.get_attribute_value(candidate)
    return default


def gradient_rule(op_type: str) -> Callable[[GradientRule], GradientRule]:
    """Register `rule(builder, node, output_gradient) -> input gradients`; None where one is not wanted."""

    def register(rule: GradientRule) -> GradientRule:
        _gradient_rules[op_type] = rule
        return rule

    return register


def score_rule(op_type: str) -> Callable[[ScoreRule], ScoreRule]:
    """Register `rule(builder, node, output_gradient, place) -> scores` along the axis the neurons produce."""

    def register(rule: ScoreRule) -> ScoreRule:
        _score_rules[op_type] = rule
        return rule

    return register


def support_check(op_type: str) -> Callable[[SupportCheck], SupportCheck]:
    """Register `check(node)`: None where the rule covers the node's attributes, else what to use instead."""

    def register(check: SupportCheck) -> SupportCheck:
        _support_checks[op_type] = check
        return check

    return register


def find_gradient_rule(op_type: str) -> GradientRule | None:
    """The rule of an operator, if it has one."""
    return _gradient_rules.get(op_type)


def find_score_rule(op_type: str) -> ScoreRule | None:
    """The score rule of an operator, if it has one."""
    return _score_rules.get(op_type)


def supported_operators() -> list[str]:
    """Names of the operators with a gradient rule."""
    return sorted(_gradient_rules)


def objection(node: Node) -> str | None:
    """Why this node cannot be differentiated, or None."""
    if node.proto.op_type not in _gradient_rules:
        return "no gradient rule"
    check = _support_checks.get(node.proto.op_type)
    return check(node) if check else None

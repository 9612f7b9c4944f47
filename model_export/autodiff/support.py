"""Whether a graph can be trained; if not, one error that lists every node that stands in the way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from onnx import NodeProto

from model_export.autodiff.registry import PARAMETER_VIEWS, Node, Shape, load_rules, objection, supported_operators
from model_export.autodiff.suggestions import suggestion
from model_export.batch_axis import ANY_BATCH, shown
from model_export.errors import ExportError
from model_export.torch_trace import INPUT

_BY_OTHER_PASSES = {"Identity", "Constant", "ConstantOfShape", "InstanceNormalization", "Size", "Tile"}
"""What is not in a graph of normal form any more, though it has no gradient rule."""

_WITH_SUBGRAPHS = ("If", "Loop", "Scan")
"""What may read tensors that are not among its inputs."""


def require_supported(
    nodes: Iterable[NodeProto], shapes: Mapping[str, Shape], parameters: Collection[str] = ()
) -> None:
    """Raise one `ExportError` that lists every node without a rule and its place in the user's module."""
    load_rules()
    seen, varying, problems = set(parameters), {INPUT}, list[str]()
    for proto in nodes:
        reason = _without_rule(proto) or objection(Node(proto, shapes, ()))
        if proto.op_type in PARAMETER_VIEWS and proto.input[0] in seen:
            seen.update(proto.output)
        if not varying.isdisjoint(proto.input):
            varying.update(proto.output)
            reason = reason or _apart(proto, shapes, seen)
        if reason:
            problems.append(_listed(proto, reason))
    _refuse(problems)


def require_exported(nodes: Sequence[NodeProto], sources: Iterable[str]) -> None:
    """The same for a graph as torch exports it, by operators alone; what no source reaches will be a constant."""
    load_rules()
    known, reached, problems = _BY_OTHER_PASSES.union(supported_operators()), set(sources), list[str]()
    for node in nodes:
        if node.op_type in _WITH_SUBGRAPHS or not (reached.isdisjoint(node.input) or node.op_type in ("Shape", "Size")):
            reached.update(node.output)
        elif not node.domain:
            continue
        if node.domain or node.op_type not in known:
            problems.append(_listed(node, f"no gradient rule; {suggestion(node.op_type)}"))
    _refuse(problems)


def _without_rule(proto: NodeProto) -> str | None:
    if proto.op_type in supported_operators():
        return None
    return f"no gradient rule; {suggestion(proto.op_type)}"


def _apart(proto: NodeProto, shapes: Mapping[str, Shape], parameters: set[str]) -> str | None:
    """Where a parameter meets examples, their axis is the first, so that each has a gradient of its own."""
    output = shapes.get(proto.output[0], ())
    if parameters.isdisjoint(proto.input) or output[:1] == (ANY_BATCH,):
        return None
    return f"a parameter meets examples along another axis than the first of {shown(output)}; use batch_first=True"


def _listed(proto: NodeProto, reason: str) -> str:
    place = proto.name or proto.output[0]
    return f"{proto.op_type} at {place}: {reason}"


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise ExportError(f"the model has operators that cannot be trained: {'; '.join(problems)}")

from __future__ import annotations

import msgspec
import pytest

from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter

WEIGHT = Parameter("fc.weight", (4, 3), (CutAxis(0, "fc", produces=True),), 1)
READER = Parameter("out.weight", (2, 8), (CutAxis(1, "fc", block=2),), 1)
FC = NeuronGroup("fc", 4)


def test_a_legal_layout_counts_neurons_and_elements() -> None:
    layout = Layout((WEIGHT, READER), (FC,))
    assert layout.group_sizes == {"fc": 4}
    assert layout.element_count == 12 + 16


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, "parameter name"),
        ({"shape": (4, 0)}, "shape of w"),
        ({"shape": (-1, 3)}, "shape of w"),
        ({"uses_per_example": -1}, "uses_per_example of w"),
        ({"cuts": (CutAxis(0, "fc"), CutAxis(0, "other"))}, "cut axes of w"),
    ],
)
def test_a_parameter_outside_its_range_is_refused(fields: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^{named} must be "):
        Parameter(**{"name": "w", "shape": (4, 3), **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1])
def test_a_group_without_neurons_is_refused(size: int) -> None:
    with pytest.raises(InvalidValueError, match="size of neuron group fc"):
        NeuronGroup("fc", size)


@pytest.mark.parametrize(
    ("parameters", "groups", "named"),
    [
        ((), (), "parameters must be at least one"),
        ((WEIGHT, WEIGHT), (FC,), "parameter names"),
        ((WEIGHT,), (FC, FC), "neuron group names"),
        ((WEIGHT,), (), "cut group of fc.weight"),
        ((Parameter("w", (4,), (CutAxis(1, "fc"),)),), (FC,), "cut axis of w"),
        ((Parameter("w", (4,), (CutAxis(-1, "fc"),)),), (FC,), "cut axis of w"),
        ((Parameter("w", (4,), (CutAxis(0, "fc", block=0),)),), (FC,), "block of w"),
        ((Parameter("w", (5,), (CutAxis(0, "fc"),)),), (FC,), "axis 0 of w must be 4, got 5"),
        ((Parameter("w", (4,), (CutAxis(0, "fc", block=2),)),), (FC,), "axis 0 of w must be 8, got 4"),
    ],
)
def test_a_layout_that_does_not_hold_together_is_refused(
    parameters: tuple[Parameter, ...], groups: tuple[NeuronGroup, ...], named: str
) -> None:
    with pytest.raises(InvalidValueError, match=named):
        Layout(parameters, groups)


def test_a_layout_is_frozen() -> None:
    with pytest.raises(AttributeError):
        FC.size = 3  # type: ignore[misc]


@pytest.mark.parametrize("kind", [CutAxis, Parameter, NeuronGroup, Layout])
def test_unknown_fields_are_refused(kind: type[msgspec.Struct]) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"surplus": 1}', type=kind)

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from model_export.export import compile_model
from model_export.zoo.lenet import lenet
from wire_protocol.layout import Layout

Cut = tuple[int, str, int, bool]


class Graph(nn.Module):
    """A module whose forward pass is a function of itself and the input."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self, inputs)


def layout_of(module: nn.Module, *input_shape: int) -> Layout:
    return compile_model(module, input_shape)[1]


def cuts_of(layout: Layout) -> dict[str, list[Cut]]:
    return {p.name: [(cut.axis, cut.group, cut.block, cut.produces) for cut in p.cuts] for p in layout.parameters}


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


def test_an_mlp_cuts_its_hidden_layers() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 4))
    layout = layout_of(module, 2, 3)
    assert layout.group_sizes == {"1": 8, "3": 5}
    assert cuts_of(layout) == {
        "1.weight": [(0, "1", 1, True)],
        "1.bias": [(0, "1", 1, True)],
        "3.weight": [(0, "3", 1, True), (1, "1", 1, False)],
        "3.bias": [(0, "3", 1, True)],
        "5.weight": [(1, "3", 1, False)],
        "5.bias": [],
    }
    assert [p.uses_per_example for p in layout.parameters] == [1, 0, 1, 0, 1, 0]


def test_a_flatten_makes_a_channel_a_block() -> None:
    layout = layout_of(lenet((1, 28, 28), 10), 1, 28, 28)
    assert layout.group_sizes == {"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84}
    assert cuts_of(layout)["fc1.weight"] == [(0, "fc1", 1, True), (1, "conv2", 25, False)]
    uses = {p.name: p.uses_per_example for p in layout.parameters}
    assert (uses["conv1.weight"], uses["conv2.weight"], uses["fc1.weight"]) == (28 * 28, 10 * 10, 1)


def test_layers_that_write_to_one_stream_are_one_group() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        stream = m.stem(x)
        stream = stream + m.second(torch.relu(m.first(stream)))
        return m.head(stream + m.third(stream))

    layout = layout_of(
        Graph(
            forward,
            stem=nn.Linear(3, 6),
            first=nn.Linear(6, 4),
            second=nn.Linear(4, 6),
            third=nn.Linear(6, 6),
            head=nn.Linear(6, 2),
        ),
        3,
    )
    assert layout.group_sizes == {"stem": 6, "first": 4}
    assert cuts_of(layout)["second.weight"] == [(0, "stem", 1, True), (1, "first", 1, False)]
    assert cuts_of(layout)["third.weight"] == [(0, "stem", 1, True), (1, "stem", 1, False)]


def test_a_flattened_stream_joins_a_linear_layer_in_blocks() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.head(torch.relu(m.conv(x)).flatten(1) + m.beside(x.flatten(1)) + m.offset)

    module = Graph(
        forward, conv=nn.Conv1d(1, 4, 3), beside=nn.Linear(8, 24), offset=parameter(24), head=nn.Linear(24, 2)
    )
    cuts = cuts_of(layout_of(module, 1, 8))
    group = cuts["conv.weight"][0][1]
    assert cuts["conv.weight"] == [(0, group, 1, True)]
    assert cuts["beside.weight"] == [(0, group, 6, True)]
    assert cuts["offset"] == [(0, group, 6, True)]
    assert cuts["head.weight"] == [(1, group, 6, False)]


def test_a_linear_layer_needs_no_bias() -> None:
    module = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False))
    assert cuts_of(layout_of(module, 3)) == {"0.weight": [(0, "0", 1, True)], "2.weight": [(1, "0", 1, False)]}


def shared_twice(m: nn.Module, x: Tensor) -> Tensor:
    return m.head(torch.relu(m.layer(torch.relu(m.layer(x)))))


NEVER_CUT: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "input and output only": (nn.Linear(4, 3), (4,)),
    "input added": (
        Graph(lambda m, x: m.head(torch.relu(m.first(x)) + x), first=nn.Linear(4, 4), head=nn.Linear(4, 3)),
        (4,),
    ),
    "constant added": (
        Graph(lambda m, x: m.head(m.first(x) + torch.ones(4)), first=nn.Linear(4, 4), head=nn.Linear(4, 3)),
        (4,),
    ),
    "frozen reader": (
        Graph(
            lambda m, x: m.head(torch.relu(m.first(x))),
            first=nn.Linear(4, 4),
            head=nn.Linear(4, 3).requires_grad_(False),
        ),
        (4,),
    ),
    "shared layer that reads the input": (
        Graph(shared_twice, layer=nn.Linear(4, 4), head=nn.Linear(4, 3)),
        (4,),
    ),
    "uneven parts side by side": (
        Graph(lambda m, x: m.head(torch.cat([m.first(x), x], 1)), first=nn.Linear(4, 2), head=nn.Linear(6, 3)),
        (4,),
    ),
    "the output's own layer by a second way": (
        Graph(lambda m, x: m.head(torch.relu(m.first(x))) + m.first(x), first=nn.Linear(4, 3), head=nn.Linear(3, 3)),
        (4,),
    ),
}


@pytest.mark.parametrize("name", NEVER_CUT)
def test_axes_that_are_never_cut(name: str) -> None:
    module, input_shape = NEVER_CUT[name]
    layout = layout_of(module, *input_shape)
    assert layout.groups == ()
    assert not any(p.cuts for p in layout.parameters)


def test_weights_that_are_computed_from_parameters_are_cut_with_them() -> None:
    parts = {"left": parameter(4, 2), "right": parameter(2, 5), "head": nn.Linear(5, 3)}
    module = Graph(lambda m, x: m.head(torch.relu(x @ torch.exp(m.left @ m.right))), **parts)
    layout = layout_of(module, 4)
    assert layout.group_sizes == {"left": 2, "right": 5}
    cuts = cuts_of(layout)
    assert cuts["left"] == [(1, "left", 1, True)]
    assert cuts["right"] == [(0, "left", 1, False), (1, "right", 1, True)]


def test_a_stretched_parameter_axis_is_not_cut() -> None:
    module = Graph(
        lambda m, x: m.head(torch.relu(m.first(x) + m.row + m.scalar + m.single)),
        first=nn.Linear(3, 5),
        row=parameter(1, 5),
        scalar=parameter(),
        single=parameter(1),
        head=nn.Linear(5, 2),
    )
    cuts = cuts_of(layout_of(module, 3))
    group = cuts["row"][0][1]
    assert cuts["row"] == [(1, group, 1, True)]
    assert cuts["scalar"] == cuts["single"] == []
    assert cuts["first.bias"] == [(0, group, 1, True)]


def test_two_groups_of_one_layer_are_told_apart() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = parameter(3, 4), parameter(4, 5)

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.relu(torch.relu(inputs @ self.inner) @ self.outer)

    layout = layout_of(Graph(lambda m, x: m.head(m.layer(x)), layer=Layer(), head=nn.Linear(5, 2)), 3)
    assert layout.group_sizes == {"layer": 4, "layer#2": 5}


def test_equal_initial_values_do_not_make_parameters_one() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    for values in module.parameters():
        nn.init.zeros_(values)
    assert [p.name for p in layout_of(module, 3).parameters] == [name for name, _ in module.named_parameters()]

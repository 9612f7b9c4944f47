from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.forward_graph import trace
from model_export.losses import CROSS_ENTROPY
from model_export.parity import Subject, check_parity
from model_export.training_graphs import train_step


class Graph(nn.Module):
    """A linear layer from 4 to 6 features, one from 6 to 3, and any function of them, itself and the input."""

    def __init__(self, function: Callable[[Graph, Tensor], object], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Tensor) -> object:
        return self.function(self, inputs)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


def refuse(module: nn.Module, input_shape: tuple[int, ...] = (4,)) -> str:
    with pytest.raises(ExportError) as caught:
        compile_model(module, input_shape)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_all_unsupported_operators_are_listed_with_their_place() -> None:
    module = nn.Sequential()
    module.add_module("stem", nn.Conv2d(1, 4, 3))
    module.add_module("rivals", nn.LocalResponseNorm(2))
    module.add_module("larger", nn.Upsample(scale_factor=2))
    module.add_module("flat", nn.Flatten())
    module.add_module("head", nn.Linear(64, 3))
    text = refuse(module, (1, 4, 4))
    assert "Resize at /larger/Resize: no gradient rule" in text
    assert "If at /rivals/If: no gradient rule" in text
    assert "use torch.nn.ConvTranspose2d, or repeat entries" in text


@pytest.mark.parametrize(
    ("layer", "input_shape", "reason"),
    [
        (nn.MaxPool2d(2, ceil_mode=True), (2, 7, 7), "MaxPool at /0/MaxPool: MaxPool with windows that ceil_mode adds"),
        (nn.Flatten(0, 1), (2, 4), "Flatten that joins the batch axis with others"),
    ],
)
def test_unsupported_variants_say_what_to_use(layer: nn.Module, input_shape: tuple[int, ...], reason: str) -> None:
    with torch.no_grad():
        features = layer(torch.zeros(3, *input_shape)).numel() // 3
    module = nn.Sequential(layer, nn.Unflatten(0, (-1, 2)) if isinstance(layer, nn.Flatten) else nn.Identity())
    module.append(nn.Flatten()).append(nn.Linear(features, 3))
    assert reason in refuse(module, input_shape)


def fail_silently(module: Graph, inputs: Tensor) -> None:
    raise AssertionError


MODELS: dict[str, tuple[Callable[[Graph, Tensor], object], dict[str, nn.Parameter], str]] = {
    "two outputs": (
        lambda m, x: (m.head(m.first(x)), x),
        {},
        "must return one tensor, got a tuple of 2",
    ),
    "a tuple of one": (lambda m, x: (m.head(m.first(x)),), {}, "must return one tensor, got a tuple of 1"),
    "a dict": (lambda m, x: {"logits": m.first(x), "features": x}, {}, "got a dict of logits, features; return one of"),
    "nothing": (lambda _, x: None, {}, "must return one tensor, got NoneType"),
    "one class": (lambda m, x: m.column(x), {"column": nn.Linear(4, 1)}, r"must be logits .* got \(batch, 1\)"),
    "vector": (
        lambda m, x: m.head(m.first(x)).flatten(),
        {},
        r"the batch as its first axis, got \(3\*batch,\)",
    ),
    "rank 3": (lambda m, x: m.head(m.first(x)).view(-1, 3, 1), {}, r"must be logits .* got \(batch, 3, 1\)"),
    "no parameter": (lambda _, x: x, {}, "no trainable parameter"),
    "wrong shape": (lambda m, x: m.head(x), {}, r"cannot trace the model on inputs \(3, 4\): mat1 and mat2"),
    "raises": (lambda m, x: m.nothing(x), {}, "cannot trace the model .* has no attribute 'nothing'"),
    "raises without a word": (
        fail_silently,
        {},
        r"on inputs \(3, 4\): AssertionError \(test_forward_graph.py:\d+\)$",
    ),
    "noise": (lambda m, x: m.head(m.first(x) + torch.randn(6)), {}, "RandomNormal at /RandomNormal"),
    "batch in a parameter": (
        lambda m, x: m.head(m.first(x) + m.rows),
        {"rows": parameter(3, 6)},
        r"runs for 3 examples, and must for any number",
    ),
    "sum over the batch": (
        lambda m, x: m.head(m.weight @ m.first(x)),
        {"weight": parameter(3, 3)},
        r"runs for 3 examples, and must for any number",
    ),
    "number of examples": (
        lambda m, x: m.head(m.first(x) / x.shape[0]),
        {},
        "Div at /Div depends on the number of examples",
    ),
    "number of examples as Python's": (
        lambda m, x: m.head(m.first(x) / len(x)),
        {},
        "Div at /Div depends on the number of examples",
    ),
    "one example after another": (
        lambda m, x: m.head(torch.stack([m.first(one) for one in x])),
        {},
        "use no loop over examples",
    ),
    "other examples": (lambda m, x: m.head(m.first(x) + torch.arange(len(x))[:, None]), {}, "the number of examples"),
    "half precision": (
        lambda m, x: m.layer(x),
        {"layer": nn.Linear(4, 3).half()},
        "must be float32, and layer",
    ),
    "float tokens": (lambda m, x: m.layer(x)[:, 0], {"layer": nn.Embedding(4, 3)}, r"call \.long\(\) on tokens"),
    "two inputs": (lambda m, x, y: m.head(m.first(x)), {}, "missing 1 required positional argument: 'y'"),
    "moved batch": (
        lambda m, x: m.head(m.first(x).view(2, -1).view(-1, 6)),
        {},
        r"Reshape of \(batch, 6\) to \(2, 3\*batch\); the batch axis must stay an axis of its own",
    ),
    "activation as bias": (
        lambda m, x: m.head(torch.addmm(m.first(x), x, m.weight)),
        {"weight": parameter(4, 6)},
        r"Gemm with a third input of shape \(batch, 6\)",
    ),
    "bias of one": (
        lambda m, x: m.head(torch.addmm(m.bias, x, m.weight)),
        {"weight": parameter(4, 6), "bias": parameter(1)},
        r"Gemm with a third input of shape \(1,\)",
    ),
    "parameter called batch": (lambda m, x: m.head(m.first(x) + m.batch), {"batch": parameter(6)}, "called batch"),
    "parameter called output": (lambda m, x: m.head(m.first(x) + m.output), {"output": parameter(6)}, "called output"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_exported(name: str) -> None:
    function, parts, reason = MODELS[name]
    assert re.search(reason, refuse(Graph(function, **parts)))


def test_parameters_with_names_of_graph_inputs_or_outputs_are_refused() -> None:
    for name in ("targets", "example_weights", "loss"):
        graph, layout = compile_model(
            Graph(lambda m, x, n=name: m.head(m.first(x) + getattr(m, n)), **{name: parameter(6)}), (4,)
        )
        with pytest.raises(ExportError, match=f"'{name}' has been used"):
            train_step(graph, layout)


def test_frozen_and_unused_parameters_are_not_trained() -> None:
    module = Graph(lambda m, x: m.head(torch.relu(m.first(x))), unused=nn.Linear(2, 2))
    module.head.requires_grad_(False)
    graph = trace(module, (4,))
    assert list(graph.parameters) == ["first.weight", "first.bias"]
    assert {"head.weight", "head.bias"} <= set(graph.constants)


def test_nothing_in_the_graph_is_the_traced_batch() -> None:
    module = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 3))
    graph = trace(module, (4,))
    assert [node.op_type for node in graph.nodes] == ["Reshape", "Flatten", "Gemm"]
    assert [array.tolist() for array in graph.constants.values()] == [[0, 2, 2]]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_tracing_leaves_no_trace(training: bool, fails: bool) -> None:
    layers = [nn.Linear(4, 6), nn.Linear(5, 6) if fails else nn.ReLU(), nn.Linear(6, 3)]
    module = nn.Sequential(*layers).train(training)
    layers[2].eval()
    before = {name: values.clone() for name, values in module.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    if fails:
        refuse(module)
    else:
        compile_model(module, (4,))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    assert [layer.training for layer in (module, *layers)] == [training, training, training, False]
    assert all(torch.equal(values, before[name]) for name, values in module.state_dict().items())
    assert all(values.requires_grad and values.grad is None for values in module.parameters())


def test_what_values_decide_is_refused_with_its_place() -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = parameter()

        def forward(self, inputs: Tensor) -> Tensor:
            scaled = inputs * float(self.scale)
            return scaled if scaled.sum() > -1 else scaled + 1

    text = refuse(Graph(lambda m, x: m.head(m.first(m.gate(x))), gate=Decides()))
    assert "values decide what the model computes" in text
    assert re.search(r"a number of a tensor at test_forward_graph.py:\d+ in gate; a truth value of a tensor at", text)


def test_what_sizes_and_buffers_decide_is_no_decision(caplog: pytest.LogCaptureFixture) -> None:
    class Checks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("flag", torch.tensor(1.0))

        def forward(self, inputs: Tensor) -> Tensor:
            if inputs.shape[1] != 4 or inputs.size(0) == 0 or not self.flag:
                raise ValueError
            return inputs * self.flag

    with caplog.at_level("WARNING"):
        compile_model(Graph(lambda m, x: m.head(m.first(m.check(x))), check=Checks()), (4,))
    assert caplog.text == ""


ANY_SIZE: dict[str, Callable[[Graph, Tensor], Tensor]] = {
    "ones": lambda m, x: m.first(x) + x.new_ones(x.shape[0], 6),
    "ones of a length": lambda m, x: m.first(x) * torch.full((len(x), 6), 2.0),
    "view by length": lambda m, x: m.first(x).view(len(x), 2, 3).flatten(1),
    "view by size": lambda m, x: m.first(x).reshape(x.size(0), -1),
    "expanded parameter": lambda m, x: m.first(x) + m.row.expand(x.shape[0], -1),
    "repeated parameter": lambda m, x: m.first(x) + m.row.repeat(x.shape[0], 1),
    "all of the batch": lambda m, x: m.first(x)[: x.shape[0]],
    "first state": lambda m, x: torch.cat([x.new_zeros(len(x), 3), m.first(x)], 1)[:, :6],
    "examples elsewhere": lambda m, x: torch.tanh(m.first(x)[:, None].transpose(0, 1)).transpose(0, 1)[:, 0],
}


@pytest.mark.parametrize("name", ANY_SIZE)
def test_a_graph_serves_batches_of_any_size(name: str) -> None:
    function = ANY_SIZE[name]
    module = Graph(lambda m, x: m.head(function(m, x)), row=parameter(1, 6))
    graph, layout = compile_model(module, (4,))
    found = check_parity(Subject(module, graph, layout, CROSS_ENTROPY), Path(), ())
    assert [comparison for comparison in found if not comparison.agrees] == []


def test_examples_along_another_axis_are_refused_where_parameters_meet_them() -> None:
    text = refuse(Graph(lambda m, x: m.head(m.first(x.transpose(0, 1)).transpose(0, 1)[:, 0])), (3, 4))
    assert re.search(r"MatMul at /first/MatMul: a parameter meets examples .* \(3, batch, 6\); use batch_first", text)


@pytest.mark.parametrize("size", [3, 5])
def test_a_size_that_is_the_traced_batchs_is_none(size: int) -> None:
    shape = (size, 2)
    module = Graph(lambda m, x: m.head(m.first(x) + m.table.reshape(-1)[:6]), table=parameter(*shape))
    compile_model(module, (4,))
    module = Graph(lambda m, x: m.head((m.first(x) * m.table.softmax(0)[:, None]).sum(1)), table=parameter(size))
    compile_model(module, (size, 4))

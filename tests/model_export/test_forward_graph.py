from __future__ import annotations

import random
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.forward_graph import trace
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
    assert "(supported: Abs, Add, " in text


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
    module = nn.Sequential(layer, nn.Unflatten(0, (3, -1)) if isinstance(layer, nn.Flatten) else nn.Identity())
    module.append(nn.Flatten()).append(nn.Linear(features, 3))
    assert reason in refuse(module, input_shape)


def fail_silently(module: Graph, inputs: Tensor) -> None:
    raise AssertionError


MODELS: dict[str, tuple[Callable[[Graph, Tensor], object], dict[str, nn.Parameter], str]] = {
    "two outputs": (lambda m, x: (m.head(m.first(x)), x), {}, "must return one tensor, got 2"),
    "one class": (lambda m, x: m.column(x), {"column": nn.Linear(4, 1)}, r"must be logits .* got \(3, 1\)"),
    "vector": (lambda m, x: m.head(m.first(x)).flatten(), {}, r"must have the batch as its first axis, got \(9,\)"),
    "rank 3": (lambda m, x: m.head(m.first(x)).view(-1, 3, 1), {}, r"must be logits .* got \(3, 3, 1\)"),
    "no parameter": (lambda _, x: x, {}, "no trainable parameter"),
    "wrong shape": (lambda m, x: m.head(x), {}, r"cannot trace the model on inputs \(3, 4\): mat1 and mat2"),
    "raises": (lambda m, x: m.nothing(x), {}, "cannot trace the model .* has no attribute 'nothing'"),
    "raises without a word": (fail_silently, {}, r"cannot trace the model on inputs \(3, 4\): AssertionError$"),
    "noise": (lambda m, x: m.head(m.first(x) + torch.randn(6)), {}, "RandomNormal at /RandomNormal"),
    "batch in a parameter": (
        lambda m, x: m.head(m.first(x) + m.rows),
        {"rows": parameter(3, 6)},
        "must take batches of any size",
    ),
    "batch in a constant": (
        lambda m, x: m.head(m.first(x) + x.new_ones(x.shape[0], 6)),
        {},
        "must take batches of any size",
    ),
    "sum over the batch": (
        lambda m, x: m.head(m.weight @ m.first(x)),
        {"weight": parameter(3, 3)},
        "must take batches of any size",
    ),
    "moved batch": (
        lambda m, x: m.head(m.first(x).view(2, 9).view(-1, 6)),
        {},
        r"Reshape of \(3, 6\) to \(2, 9\) .* the batch axis must stay first",
    ),
    "activation as bias": (
        lambda m, x: m.head(torch.addmm(m.first(x), x, m.weight)),
        {"weight": parameter(4, 6)},
        r"Gemm with a third input of shape \(3, 6\)",
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


def test_data_dependent_control_flow_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    module = Graph(lambda m, x: m.head(m.first(x if x.sum() > -1 else x + 1)))
    with caplog.at_level("WARNING", "model_export.forward_graph"):
        compile_model(module, (4,))
    assert "might cause the trace to be incorrect" in caplog.text

"""Slopes of pointwise operators where they bend, tie or are infinite, and operators of many inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.reverse import differentiate
from model_export.export import compile_model
from model_export.forward_graph import make_model
from model_export.torch_trace import INPUT, OUTPUT
from tests.graph_outputs import run

Arrays = dict[str, np.ndarray]
Function = Callable[..., Tensor]


class Summed(nn.Module):
    """A function of the inputs, and three outputs that add up to the sum of its results."""

    def __init__(self, function: Function, results: int) -> None:
        super().__init__()
        self.function = function
        self.last = nn.Linear(results, 3)
        nn.init.constant_(self.last.weight, 1 / 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.last(self.function(inputs))
        return logits


def gradients_at(module: nn.Module, batch: np.ndarray) -> np.ndarray:
    """Gradient by the input of the sum of outputs, from our rules."""
    graph, _ = compile_model(module, batch.shape[1:])
    g = GraphBuilder()
    g.nodes.extend(graph.nodes)
    seed = np.ones((len(batch), 3), np.float32)
    found = differentiate(g, graph.nodes, graph.shapes, {OUTPUT: "seed"}, [INPUT])
    arrays = {**graph.constants, **graph.parameters, "seed": seed}
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    inputs = [helper.make_tensor_value_info(INPUT, 1, batch.shape)]
    outputs = [helper.make_tensor_value_info(g.rename(found[INPUT], "gradient"), 1, batch.shape)]
    model = make_model(helper.make_graph(g.nodes, "gradient", inputs, outputs, [*tensors, *g.initializers()]))
    return run(model, {INPUT: batch})["gradient"]


def slopes_at(function: Function, values: list[float]) -> list[float]:
    """Our derivative of a function of one entry, summed over results."""
    batch = np.array([values], np.float32)
    module = Summed(function, function(torch.from_numpy(batch)).shape[1])
    return [round(float(slope), 4) for slope in gradients_at(module, batch)[0]]


def test_slopes_where_a_function_bends() -> None:
    assert slopes_at(functional.relu, [-1.0, 0.0, -0.0, 1e-30]) == [0, 0, 0, 1]
    assert slopes_at(functional.relu6, [-1.0, 0.0, 1e-30, 6.0, 7.0]) == [0, 0, 1, 0, 0]
    assert slopes_at(torch.abs, [-1e-30, 0.0, 1e-30]) == [-1, 0, 1]
    assert slopes_at(functional.elu, [-100.0, 0.0, 100.0]) == [0, 1, 1]
    assert slopes_at(functional.softplus, [-100.0, 0.0, 100.0]) == [0, 0.5, 1]
    assert slopes_at(functional.hardswish, [-4.0, 0.0, 4.0]) == [0, 0.5, 1]


@pytest.mark.parametrize("function", [torch.sqrt, torch.log, lambda x: x**0.7, lambda x: x.abs().pow(1.5)])
def test_no_gradient_stays_none_where_a_slope_is_infinite(function: Function) -> None:
    assert slopes_at(lambda x: function(x) * 0.0, [0.0]) == [0]


def test_the_size_of_nothing_has_no_slope() -> None:
    assert slopes_at(lambda x: x.norm(dim=1, keepdim=True), [0.0, 0.0]) == [0, 0]


def test_ties_share_the_gradient_evenly() -> None:
    assert slopes_at(lambda x: x.amax(1, keepdim=True), [1.0, 1.0, 0.0, 1.0]) == [0.3333, 0.3333, 0, 0.3333]
    assert slopes_at(lambda x: torch.maximum(x, x.clone() * 1.0), [2.0, -1.0]) == [1, 1]


def test_squares_and_infinities_that_torch_does_not_export() -> None:
    g = GraphBuilder()
    g.nodes.append(helper.make_node("ReduceSumSquare", ["x"], ["sum"], axes=[1]))
    g.nodes.append(helper.make_node("IsInf", ["x"], ["found"]))
    g.nodes.append(helper.make_node("Where", ["found", "x", "sum"], ["y"]))
    known = {"x": (1, 4), "sum": (1, 1), "found": (1, 4), "y": (1, 4), "seed": (1, 4)}
    found = differentiate(g, list(g.nodes), known, {"y": "seed"}, ["x"])
    inputs = [helper.make_tensor_value_info(name, 1, (1, 4)) for name in ("x", "seed")]
    outputs = [helper.make_tensor_value_info(g.rename(found["x"], "dx"), 1, (1, 4))]
    model = make_model(helper.make_graph(g.nodes, "squares", inputs, outputs, g.initializers()))
    x, seed = np.array([[1.0, -2.0, 3.0, 0.5]], np.float32), np.array([[1, 2, 3, 4]], np.float32)
    np.testing.assert_allclose(run(model, {"x": x, "seed": seed})["dx"], 20 * x)


@pytest.mark.parametrize("op_type", ["Max", "Min", "Sum"])
def test_operators_of_many_inputs(op_type: str) -> None:
    arrays = {
        "a": np.array([[1, 2, 3, 0], [1, 1, 2, 5]], np.float32),
        "b": np.array([[1, 0, 3, 4]], np.float32),
        "c": np.array([1, 1, 3, 0], np.float32),
        "seed": np.arange(1, 9, dtype=np.float32).reshape(2, 4),
    }
    g = GraphBuilder()
    g.nodes.append(helper.make_node(op_type, ["a", "b", "c"], ["y"]))
    known = {**{name: array.shape for name, array in arrays.items()}, "y": (2, 4)}
    found = differentiate(g, list(g.nodes), known, {"y": "seed"}, "abc")
    inputs = [helper.make_tensor_value_info(name, 1, array.shape) for name, array in arrays.items()]
    outputs = [helper.make_tensor_value_info(g.rename(found[name], f"d{name}"), 1, known[name]) for name in "abc"]
    gradients = run(make_model(helper.make_graph(g.nodes, "many", inputs, outputs, g.initializers())), arrays)
    tensors = [torch.tensor(arrays[name], requires_grad=True) for name in "abc"]
    stacked = torch.stack(torch.broadcast_tensors(*tensors))
    total = {"Max": stacked.amax, "Min": stacked.amin, "Sum": stacked.sum}[op_type](0)
    (total * torch.tensor(arrays["seed"])).sum().backward()
    for name, tensor in zip("abc", tensors, strict=True):
        np.testing.assert_allclose(gradients[f"d{name}"], tensor.grad, rtol=1e-6)

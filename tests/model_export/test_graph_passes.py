"""Passes over finished graphs: the same numbers from fewer nodes, at any width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

from model_export import training_graphs
from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.gradient_sums import MANY, summed
from model_export.export import compile_model
from model_export.forward_graph import make_model
from model_export.graph_passes.repetitions import without_repetitions
from tests.graph_outputs import run
from wire_protocol.sub_model import SubModel, gather

Arrays = dict[str, np.ndarray]
Graph = Callable[..., ModelProto]

EXAMPLES, POSITIONS, FEATURES = 4, 9, 5
GRAPHS: tuple[Graph, ...] = (training_graphs.train_step, training_graphs.private_step, training_graphs.fisher)


class Gated(nn.Module):
    """Linear layers on sequences, gates of both kinds, a repeated subexpression and scales of a feature each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Linear(FEATURES, 9), nn.Linear(FEATURES, 9)
        self.second, self.third = nn.Linear(9, 9), nn.Linear(9, 9)
        self.scale, self.shift = nn.Parameter(torch.randn(9)), nn.Parameter(torch.randn(9))
        self.head = nn.Linear(9, 3)

    def forward(self, sequences: Tensor) -> Tensor:
        hidden = torch.sigmoid(self.gate(sequences)) * torch.tanh(self.first(sequences))
        hidden = hidden * self.scale - self.shift
        hidden = self.second(hidden) + torch.tanh(hidden) * torch.sigmoid(hidden)
        pooled = hidden.mean(1)
        logits: Tensor = self.head(pooled + self.third(pooled))
        return logits


@pytest.mark.parametrize("graph", GRAPHS)
def test_numbers_stay_at_every_width(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    forward, layout = compile_model(Gated(), (POSITIONS, FEATURES))
    simplified = graph(forward, layout)
    monkeypatch.setattr(training_graphs, "simplify", lambda *_: None)
    plain = graph(forward, layout)
    generator = np.random.default_rng(0)
    assert layout.groups
    for width in (9, 4, 1):
        kept = {group.name: np.arange(min(width, group.size)) for group in layout.groups}
        feeds = {
            "batch": generator.standard_normal((EXAMPLES, POSITIONS, FEATURES), dtype=np.float32),
            "targets": generator.integers(0, 3, EXAMPLES),
            "example_weights": np.ones(EXAMPLES, dtype=np.float32),
            "clip_norm": np.array(0.5, dtype=np.float32),
            **gather(layout, SubModel(kept), forward.parameters),
        }
        expected = run(plain, feeds)
        for name, array in run(simplified, feeds).items():
            scale = max(1e-3, float(np.abs(expected[name]).max()))
            np.testing.assert_allclose(array, expected[name], rtol=0, atol=2e-6 * scale, err_msg=name)


def test_every_pass_finds_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, layout = compile_model(Gated(), (POSITIONS, FEATURES))
    after = Counter(node.op_type for node in training_graphs.train_step(forward, layout).graph.node)
    monkeypatch.setattr(training_graphs, "simplify", lambda *_: None)
    before = Counter(node.op_type for node in training_graphs.train_step(forward, layout).graph.node)
    assert after["Add"] < before["Add"]
    assert after["Mul"] < before["Mul"]
    assert after["Gemm"] == before["Gemm"] + 3
    assert after["Expand"] > before["Expand"]


def test_equal_nodes_are_computed_once() -> None:
    g = GraphBuilder()
    one, same, other = g.op("Neg", "x"), g.op("Neg", "x"), g.op("Abs", "x")
    split = g.op("Split", same, axis=0)
    g.add_output(g.nodes[-1])
    again = g.op("Split", one, axis=0)
    second = g.add_output(g.nodes[-1])
    g.rename(g.op("Sum", split, again, second, other), "y")
    kept = without_repetitions(g.nodes)
    assert [node.op_type for node in kept] == ["Neg", "Abs", "Split", "Sum", "Identity"]
    [total] = [node for node in kept if node.op_type == "Sum"]
    assert list(total.input) == [split, split, kept[2].output[1], other]


@given(
    products=st.integers(0, 2 * MANY),
    row_sums=st.integers(0, 2 * MANY),
    others=st.integers(0, 2),
    twice=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_sums_of_gradients(products: int, row_sums: int, others: int, twice: bool) -> None:
    """Of one shape (2, 2) each: products over rows, sums over rows, anything else; the last of them counted twice."""
    if not products + row_sums + others:
        return
    generator = np.random.default_rng(products + 10 * row_sums)
    feeds: Arrays = {}
    g = GraphBuilder()

    def given_of(*shape: int) -> str:
        name = f"x{len(feeds)}"
        feeds[name] = generator.standard_normal(shape, dtype=np.float32)
        return name

    parts = [g.op("Gemm", given_of(rows + 1, 2), f"x{len(feeds) - 1}", transA=1) for rows in range(products)]
    parts += [g.op("ReduceSum", given_of(rows + 1, 2, 2), g.sizes(0), keepdims=0) for rows in range(row_sums)]
    parts += [given_of(2, 2) for _ in range(others)]
    parts += parts[-1:] * twice
    values = [
        *(feeds[f"x{number}"].T @ feeds[f"x{number}"] for number in range(products)),
        *(feeds[f"x{number}"].sum(0) for number in range(products, products + row_sums)),
        *(feeds[f"x{number}"] for number in range(products + row_sums, len(feeds))),
    ]
    expected = sum(values + values[-1:] * twice)
    outputs = [helper.make_tensor_value_info(g.rename(summed(g, parts), "y"), TensorProto.FLOAT, [2, 2])]
    g.keep_only(["y"])
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in feeds.items()]
    model = make_model(helper.make_graph(g.nodes, "sum", inputs, outputs, g.initializers()))
    np.testing.assert_allclose(run(model, feeds)["y"], expected, rtol=1e-5, atol=1e-5)
    kinds = Counter(node.op_type for node in g.nodes)
    assert kinds["Gemm"] <= max(MANY - 1, 1)
    assert kinds["ReduceSum"] <= max(MANY - 1, 1)

"""Operators that move, join, select and look up entries, against torch at full width and for half of the neurons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.losses import CROSS_ENTROPY
from model_export.parity import Subject, check_parity
from model_export.training_graphs import train_step
from tests.graph_outputs import open_graph

seeds = st.integers(0, 2**31)
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])

WIDTH, POSITIONS, FEATURES = 12, 4, 3


class Between(nn.Module):
    """A linear layer to `WIDTH` at every position, `function` of its outputs, and logits of all that this gives."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        self.first = nn.Linear(FEATURES, WIDTH)
        for name, part in parts.items():
            setattr(self, name, part)
        self.head = nn.LazyLinear(3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.function(self, torch.tanh(self.first(inputs)))).flatten(1))
        return logits


def require_torch(module: nn.Module, input_shape: tuple[int, ...], groups: dict[str, int], seed: int = 0) -> None:
    torch.manual_seed(seed)
    module(torch.zeros(2, *input_shape))
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    graph, layout = compile_model(module, input_shape)
    assert layout.group_sizes == groups
    found = check_parity(Subject(module, graph, layout, CROSS_ENTROPY), Path(), (), seed)
    assert len(found) == 1 + bool(groups)
    assert [comparison for comparison in found if comparison.unanswered or not comparison.agrees] == []


def heads(hidden: Tensor, size: int = 3) -> Tensor:
    parts: Tensor = torch.unflatten(hidden, 2, (-1, size))
    return parts.transpose(1, 2)


ALL, NONE = {"first": WIDTH}, dict[str, int]()
HEADS, HALVES, THIRDS = {"first": WIDTH // 3}, {"first": WIDTH // 2}, {"first": WIDTH // 3}

FUNCTIONS: dict[str, tuple[Callable[..., Tensor], dict[str, int]]] = {
    "transpose": (lambda _, x: x.transpose(1, 2), ALL),
    "axes of size 1": (lambda _, x: x.unsqueeze(1).unsqueeze(3).squeeze(1), ALL),
    "repeated along a new axis": (lambda _, x: x.unsqueeze(1).expand(-1, 5, -1, -1), ALL),
    "flattened halfway": (lambda _, x: x.unflatten(1, (2, 2)).flatten(1, 2), ALL),
    "heads": (lambda _, x: heads(x), HEADS),
    "heads and back": (lambda _, x: heads(x).transpose(1, 2).flatten(2), HEADS),
    "heads by their sizes": (lambda _, x: x.view(-1, POSITIONS, x.shape[2] // 3, 3), HEADS),
    "gates": (lambda _, x: x.unflatten(2, (3, -1))[:, :, 1], THIRDS),
    "chunks": (lambda _, x: torch.sub(*x.chunk(2, 2)), HALVES),
    "one of three chunks": (lambda _, x: x.chunk(3, 2)[1], NONE),
    "slices that are even": (lambda _, x: x[..., : x.shape[2] // 2] * x[..., x.shape[2] // 2 :], HALVES),
    "rotated halves": (lambda _, x: torch.cat([-x.chunk(2, 2)[1], x.chunk(2, 2)[0]], 2) + 2 * x, HALVES),
    "unbound gates": (lambda _, x: torch.sub(*x.unflatten(2, (2, -1)).unbind(2)), HALVES),
    "slices that overlap": (lambda _, x: x[..., :8] * x[..., 4:], NONE),
    "uneven split": (lambda _, x: x.split([4, 8], 2)[1], NONE),
    "positions apart": (lambda _, x: torch.cat(x.split([1, 3], 1)[::-1], 1), ALL),
    "last position": (lambda _, x: x[:, -1], ALL),
    "first positions": (lambda _, x: x[:, :2], ALL),
    "inner positions": (lambda _, x: x[:, 1:-1] + x[:, :-2], ALL),
    "all positions": (lambda _, x: x[:, :], ALL),
    "neighbours": (lambda _, x: x[:, [1, 2]], ALL),
    "positions in another order": (lambda _, x: x[:, [3, 0, 0]], ALL),
    "rows that are taken twice": (lambda _, x: x.unflatten(1, (2, 2))[:, :, [1, 1, 0]], ALL),
    "selected neurons": (lambda _, x: x[:, :, [2, 0]], NONE),
    "one neuron": (lambda _, x: x[:, :, 5], NONE),
    "side by side with itself": (lambda _, x: torch.cat([x, x * x], 2), ALL),
    "side by side with the second layer": (lambda m, x: torch.cat([x, m.second(x)], 2), ALL),
    "side by side with their sum": (lambda _, x: torch.cat([x, x.sum(2, keepdim=True)], 2), NONE),
    "one after another": (lambda _, x: torch.cat([x, x * x], 1), ALL),
    "stacked": (lambda _, x: torch.stack([x, x * x], 1), ALL),
    "padded positions": (lambda _, x: nn.functional.pad(x, (0, 0, 1, 2), value=0.5), ALL),
    "padded neurons": (lambda _, x: nn.functional.pad(x, (1, 0)), NONE),
    "shifted neurons": (lambda _, x: nn.functional.pad(x, (1, -1)), NONE),
    "product of activations": (lambda _, x: x @ x.transpose(1, 2), ALL),
    "scores of heads": (lambda _, x: heads(x) @ heads(x).transpose(2, 3), HEADS),
    "attention": (lambda _, x: (heads(x) @ heads(x).transpose(2, 3)).softmax(-1) @ heads(x), HEADS),
    "products that are broadcast": (lambda _, x: x[:, None] @ torch.stack([x, x * x], 1).transpose(2, 3), ALL),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_moved_entries(name: str) -> None:
    function, groups = FUNCTIONS[name]
    parts = {"second": nn.Linear(WIDTH, WIDTH)} if "second layer" in name else {}
    require_torch(Between(function, **parts), (POSITIONS, FEATURES), groups)


PARAMETERS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], dict[str, int]]] = {
    "first of every sequence": (
        lambda m, x: torch.cat([m.table.expand(x.shape[0], -1, -1), x], 1),
        (1, 1, WIDTH),
        {"table": WIDTH},
    ),
    "view": (lambda m, x: x * m.table.view(1, 1, -1), (WIDTH,), {"table": WIDTH}),
    "gates of a parameter": (lambda m, x: x.unflatten(2, (3, -1)) + m.table.view(3, -1), (WIDTH,), {"table": 4}),
    "mixed positions": (lambda m, x: m.table @ x, (5, POSITIONS), {"table": 5}),
    "one mixed position": (lambda m, x: m.table @ x[:, :, :1], (5, POSITIONS), {"table": 5}),
    "matrix for each head": (lambda m, x: heads(x, 3)[:, :2] @ m.table, (2, 3, 5), {"table": 5}),
    "one matrix for all heads": (lambda m, x: heads(x) @ m.table, (3, 5), {"first": 4}),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_moved_parameters(name: str) -> None:
    function, shape, groups = PARAMETERS[name]
    require_torch(Between(function, table=nn.Parameter(torch.empty(shape))), (POSITIONS, FEATURES), groups)


@given(
    leading=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    sizes=st.tuples(*[st.integers(1, 4)] * 3),
    seed=seeds,
)
@few
def test_products_of_activations(leading: tuple[int, ...], sizes: tuple[int, int, int], seed: int) -> None:
    rows, inner, columns = sizes

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Linear(2, rows * inner)
            self.right = nn.Linear(2, inner * columns)
            self.head = nn.Linear(rows * columns * torch.Size(leading).numel(), 3)

        def forward(self, inputs: Tensor) -> Tensor:
            left = torch.tanh(self.left(inputs)).view(-1, *leading, rows, inner)
            right = torch.tanh(self.right(inputs)).view(-1, *leading, inner, columns)
            logits: Tensor = self.head((left @ right).flatten(1))
            return logits

    torch.manual_seed(seed)
    module = Product()
    graph, layout = compile_model(module, (*leading, 2))
    [found, *_] = check_parity(Subject(module, graph, layout, CROSS_ENTROPY), Path(), (), seed)
    assert found.agrees, found


class Lookup(nn.Module):
    """Tokens to logits; `twice` reads the table for a second sequence of tokens too."""

    def __init__(self, tokens: int, width: int, *, twice: bool) -> None:
        super().__init__()
        self.embedding, self.head, self.twice = nn.Embedding(tokens, width), nn.Linear(width, 3), twice

    def forward(self, tokens: Tensor) -> Tensor:
        vectors = self.embedding(tokens.long())
        if self.twice:
            vectors = vectors * torch.tanh(self.embedding(tokens.long()))
        logits: Tensor = self.head(torch.tanh(vectors).flatten(1, -2).sum(1))
        return logits


@given(
    tokens=st.integers(1, 6),
    width=st.integers(2, 5),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=2).map(tuple),
    twice=st.booleans(),
    seed=seeds,
)
@few
def test_embedding(tokens: int, width: int, shape: tuple[int, ...], twice: bool, seed: int) -> None:
    require_torch(Lookup(tokens, width, twice=twice), shape, {"embedding": width}, seed)


def test_one_token_an_example() -> None:
    class OneToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            logits: Tensor = self.head(torch.tanh(self.embedding(tokens[:, 0].clamp(0, 6).long())))
            return logits

    require_torch(OneToken(), (2,), {"embedding": 4})


def test_a_table_used_for_tokens_and_positions_has_the_sum_of_both() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            early, late = tokens[:, :2].clamp(0, 6).long(), tokens[:, 1:].clamp(0, 6).long()
            logits: Tensor = self.head(torch.tanh(self.embedding(early).sum(1) * self.embedding(late).sum(1)))
            return logits

    require_torch(Tied(), (3,), {"embedding": 4})


def test_no_graph_holds_the_size_of_a_cut_axis() -> None:
    module = Between(lambda _, x: heads(x).transpose(1, 2).flatten(2))
    module(torch.zeros(2, POSITIONS, FEATURES))
    graph, layout = compile_model(module, (POSITIONS, FEATURES))
    targets = [graph.constants[node.input[1]].tolist() for node in graph.nodes if node.op_type == "Reshape"]
    assert targets == [[0, 0, -1, 3], [0, 0, -1]]
    session = open_graph(train_step(graph, layout))
    narrow = {"first.weight": (3, FEATURES), "first.bias": (3,), "head.weight": (3, POSITIONS * 3), "head.bias": (3,)}
    feeds: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in narrow.items()}
    batch = np.ones((5, POSITIONS, FEATURES), np.float32)
    outputs = session.run(
        None, {**feeds, "batch": batch, "targets": np.zeros(5, np.int64), "example_weights": np.ones(5, np.float32)}
    )
    assert [output.shape for output in outputs[1:]] == list(narrow.values())


REFUSED: dict[str, tuple[Callable[..., Tensor], str]] = {
    "steps": (lambda _, x: x[:, ::2], "Slice with a step"),
    "reflection": (lambda _, x: nn.functional.pad(x, (0, 0, 1, 1), mode="reflect"), "Pad of mode reflect"),
    "batch joined": (lambda _, x: x.flatten(0, 1).unflatten(0, (-1, POSITIONS)), "batch axis"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    function, reason = REFUSED[name]
    module = Between(function)
    module(torch.zeros(2, POSITIONS, FEATURES))
    with pytest.raises(ExportError, match=reason):
        compile_model(module, (POSITIONS, FEATURES))

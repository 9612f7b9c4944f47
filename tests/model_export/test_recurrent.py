"""Unrolled recurrent layers and dropout: the same function as torch's layer, and trained as torch trains it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.losses import CROSS_ENTROPY
from model_export.module_rewrites.dropout import leave_out_dropout
from model_export.module_rewrites.recurrent import UNROLLED, unroll_recurrent
from model_export.module_rewrites.trainable_form import trainable_form
from model_export.parity import Subject, check_parity

KINDS: list[type[nn.RNNBase]] = list(UNROLLED)
thorough = settings(max_examples=12, deadline=None)


class Tagger(nn.Module):
    """A recurrent layer whose outputs at all steps and whose last states both reach the logits."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.memory = layer
        self.head = nn.Linear(layer.hidden_size, 3)

    def forward(self, sequences: Tensor) -> Tensor:
        outputs, last = self.memory(sequences)
        states = last if isinstance(last, tuple) else (last,)
        logits: Tensor = self.head(torch.tanh(outputs.sum(1)) + sum(state.sum(0) for state in states))
        return logits


@given(
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    layers=st.integers(1, 3),
    bias=st.booleans(),
)
@thorough
def test_the_unrolled_layer_is_torchs(
    kind: type[nn.RNNBase], sizes: tuple[int, int, int], layers: int, bias: bool
) -> None:
    time, features, hidden = sizes
    layer = kind(features, hidden, num_layers=layers, bias=bias, batch_first=True)
    unrolled, messages = unroll_recurrent(layer)
    assert messages == [f"{kind.__name__} at the top is unrolled over the input's sequence length"]
    assert {name: p.shape for name, p in unrolled.named_parameters()} == {
        name: p.shape for name, p in layer.named_parameters()
    }
    inputs = torch.randn(3, time, features)
    found, expected = unrolled(inputs), layer(inputs)
    torch.testing.assert_close(found, expected)


@given(
    kind=st.sampled_from(KINDS),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(2, 6)),
    layers=st.integers(1, 2),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
@thorough
def test_training_graphs_equal_torch(
    kind: type[nn.RNNBase], sizes: tuple[int, int, int], layers: int, bias: bool, seed: int
) -> None:
    time, features, hidden = sizes
    torch.manual_seed(seed)
    module, _ = trainable_form(Tagger(kind(features, hidden, num_layers=layers, bias=bias, batch_first=True)))
    subject = Subject(module, *compile_model(module, (time, features)), CROSS_ENTROPY)
    comparisons = check_parity(subject, Path(), (), seed)
    assert [row.sub_model for row in comparisons] == ["all neurons", "a random half"]
    for row in comparisons:
        assert row.agrees, row
        assert not row.unanswered


@pytest.mark.parametrize(("kind", "gates"), [(nn.GRU, 3), (nn.LSTM, 4)])
def test_a_neuron_is_a_hidden_unit_with_all_its_gates(kind: type[nn.RNNBase], gates: int) -> None:
    _, layout = compile_model(trainable_form(Tagger(kind(5, 6, batch_first=True)))[0], (4, 5))
    assert [(group.name, group.size) for group in layout.groups] == [("memory", 6)]
    cuts = {parameter.name: {cut.axis: cut for cut in parameter.cuts} for parameter in layout.parameters}
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        produced = cuts[f"memory.{name}"][0]
        assert (produced.block, produced.repeat, produced.produces) == (1, gates, True)
    assert set(cuts["memory.weight_ih_l0"]) == {0}
    read = cuts["memory.weight_hh_l0"][1]
    assert (read.entries, read.produces) == (1, False)


def test_a_shared_layer_stays_shared() -> None:
    layer = nn.GRU(4, 4, batch_first=True)
    module = nn.ModuleDict({"one": layer, "other": layer})
    rewritten, messages = unroll_recurrent(module)
    assert rewritten["one"] is rewritten["other"]
    assert module["one"] is layer
    assert len(messages) == 2


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.GRU(4, 4), "memory: GRU takes the sequence as the first axis; use batch_first=True"),
        (nn.LSTM(4, 4, batch_first=True, bidirectional=True), "memory: LSTM is bidirectional"),
        (nn.LSTM(4, 4, batch_first=True, proj_size=2), "memory: LSTM projects its state; use proj_size=0"),
        (nn.RNN(4, 4, batch_first=True), "memory: RNN is not supported; use torch.nn.GRU or torch.nn.LSTM"),
    ],
)
def test_other_layers_are_refused(layer: nn.RNNBase, reason: str) -> None:
    with pytest.raises(ExportError, match=f"recurrent layers that cannot be exported: {reason}"):
        unroll_recurrent(Tagger(layer))


def test_all_refused_layers_are_listed() -> None:
    module = nn.ModuleList([nn.GRU(4, 4), nn.LSTM(4, 4, batch_first=True), nn.RNN(4, 4)])
    with pytest.raises(ExportError, match=r"0: GRU takes .*; 2: RNN is not supported"):
        unroll_recurrent(module)


class Started(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.GRU(4, 4, batch_first=True)

    def forward(self, sequences: Tensor) -> Tensor:
        result: Tensor = self.memory(sequences, torch.zeros(1, 3, 4))[0][:, -1]
        return result


def test_an_initial_state_is_refused() -> None:
    with pytest.raises(ExportError, match="with an initial state cannot be exported"):
        compile_model(trainable_form(Started())[0], (2, 4))


def test_dropout_is_left_out_with_a_message() -> None:
    attention = nn.MultiheadAttention(4, 2, dropout=0.1)
    module = nn.ModuleDict({"drop": nn.Dropout(0.5), "maps": nn.Dropout2d(0.2), "mix": attention})
    rewritten, messages = leave_out_dropout(module)
    assert messages == [
        "dropout of 0.5 at drop is left out",
        "dropout of 0.2 at maps is left out",
        "dropout of 0.1 at mix is left out",
    ]
    assert isinstance(rewritten["drop"], nn.Identity)
    assert isinstance(rewritten["maps"], nn.Identity)
    assert rewritten["mix"].dropout == 0
    assert (module["drop"].p, attention.dropout) == (0.5, 0.1)
    assert leave_out_dropout(rewritten) == (rewritten, [])


def test_dropout_between_recurrent_layers_is_named() -> None:
    layer = nn.LSTM(4, 4, num_layers=2, dropout=0.25, batch_first=True)
    _, messages = trainable_form(Tagger(layer))
    assert messages == ["LSTM at memory is unrolled over the input's sequence length; its dropout of 0.25 is left out"]


def test_a_model_with_dropout_is_exported() -> None:
    module, _ = trainable_form(nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.ReLU(), nn.Linear(5, 3)))
    subject = Subject(module, *compile_model(module, (4,)), CROSS_ENTROPY)
    assert all(row.agrees for row in check_parity(subject, Path(), ()))

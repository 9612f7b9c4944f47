"""Recurrent layers are unrolled over the sequence length that the model is traced with.

One product gives the input's part of the gates at all steps, then each step is one product with the hidden state.
Gates lie side by side along the last axis and are parted evenly, whatever their width. Parameters keep their names
and torch's order of gates: input, forget, cell, output for nn.LSTM (Hochreiter and Schmidhuber, 1997; with a forget
gate: Gers, Schmidhuber and Cummins, 2000), reset, update, new for nn.GRU (Cho et al., 2014; the form of Chung et al.,
2014). A neuron is a hidden unit with all of its gates. Sizes come from the weights, so that the module also runs with
the parameters of a narrower model.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TypeGuard

import torch
from torch import Tensor, nn

from model_export.errors import ExportError

State = tuple[Tensor, ...]


class Unrolled(nn.Module):
    """A stack of layers in one direction that starts at state 0, for inputs (batch, time, features).

    Called as the layer it stands for: gives the last layer's outputs (batch, time, hidden), and what torch gives of the
    last step, (layers, batch, hidden) each.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layers = layer.num_layers
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, inputs: Tensor, state: object = None) -> tuple[Tensor, Tensor | State]:
        """Raises `ExportError` for an initial state or a packed sequence."""
        if state is not None:
            raise ExportError("a recurrent layer with an initial state cannot be exported; leave the state out")
        if isinstance(inputs, nn.utils.rnn.PackedSequence):
            raise ExportError("a packed sequence cannot be exported; give the recurrent layer the padded tensor")
        last = []
        for layer in range(self.layers):
            inputs, final = self._layer(inputs, layer)
            last.append(final)
        stacked = tuple(_stack(states) for states in zip(*last, strict=True))
        return inputs, stacked if len(stacked) > 1 else stacked[0]

    def _layer(self, inputs: Tensor, layer: int) -> tuple[Tensor, State]:
        given = nn.functional.linear(inputs, self._weight(f"ih_l{layer}"), self._bias(f"ih_l{layer}"))
        states: list[State] = []
        for step in self._prepared(given, f"hh_l{layer}").unbind(1):
            states.append(self._step(step, states[-1] if states else None, f"hh_l{layer}"))
        return torch.stack([state[0] for state in states], dim=1), states[-1]

    def _weight(self, which: str) -> Tensor:
        weight: Tensor = getattr(self, f"weight_{which}")
        return weight

    def _bias(self, which: str) -> Tensor | None:
        bias: Tensor | None = getattr(self, f"bias_{which}", None)
        return bias

    def _prepared(self, given: Tensor, which: str) -> Tensor:
        """What can be done for all steps together."""
        del which
        return given

    def _step(self, given: Tensor, state: State | None, which: str) -> State:
        """The next state; None is a state of zeros, which takes no product."""
        raise NotImplementedError


class UnrolledGRU(Unrolled):
    """h' = (1 - z) n + z h with n = tanh(W x + b + r (U h + c)); gates r, z, n."""

    def _step(self, given: Tensor, state: State | None, which: str) -> State:
        reset_in, update_in, new_in = given.chunk(3, 1)
        reset_by, update_by, new_by = self._recurrent(given, state, which).chunk(3, 1)
        reset, update = torch.sigmoid(reset_in + reset_by), torch.sigmoid(update_in + update_by)
        new = torch.tanh(new_in + reset * new_by)
        return (new - update * new if state is None else new + update * (state[0] - new),)

    def _recurrent(self, given: Tensor, state: State | None, which: str) -> Tensor:
        bias = self._bias(which)
        if state is None:
            return 0 * given if bias is None else 0 * given + bias
        return nn.functional.linear(state[0], self._weight(which), bias)


class UnrolledLSTM(Unrolled):
    """c' = f c + i g, h' = o tanh(c'); gates i, f, g, o.

    The first step reads f too, times 0: onnxruntime-training differentiates a split wrongly when a part is not read.
    """

    def _prepared(self, given: Tensor, which: str) -> Tensor:
        bias = self._bias(which)
        return given if bias is None else given + bias

    def _step(self, given: Tensor, state: State | None, which: str) -> State:
        gates = given if state is None else given + nn.functional.linear(state[0], self._weight(which))
        inlet, forget, cell, outlet = gates.chunk(4, 1)
        written = torch.sigmoid(inlet) * torch.tanh(cell)
        kept = 0 * forget + written if state is None else torch.sigmoid(forget) * state[1] + written
        return torch.sigmoid(outlet) * torch.tanh(kept), kept


UNROLLED: dict[type[nn.RNNBase], type[Unrolled]] = {nn.GRU: UnrolledGRU, nn.LSTM: UnrolledLSTM}


def unroll_recurrent(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy of `module` whose recurrent layers are unrolled, and a message for each.

    `module` itself is returned where there is none. Raises one `ExportError` that lists every layer of a kind that
    cannot be unrolled.
    """
    if not any(isinstance(part, nn.RNNBase) for part in module.modules()):
        return module, []
    rewritten = deepcopy(module)
    found = [(name, part) for name, part in rewritten.named_modules(remove_duplicate=False) if _is_recurrent(part)]
    problems = [f"{name or 'the model'}: {reason}" for name, part in found if (reason := _objection(part))]
    if problems:
        raise ExportError(f"recurrent layers that cannot be exported: {'; '.join(problems)}")
    made: dict[int, Unrolled] = {}
    messages = []
    for name, part in found:
        made.setdefault(id(part), UNROLLED[type(part)](part))
        messages.append(_message(name, part))
        if not name:
            return made[id(part)], messages
        parent, _, attribute = name.rpartition(".")
        setattr(rewritten.get_submodule(parent), attribute, made[id(part)])
    return rewritten, messages


def _objection(layer: nn.RNNBase) -> str | None:
    kind = type(layer).__name__
    if type(layer) not in UNROLLED:
        return f"{kind} is not supported; use torch.nn.GRU or torch.nn.LSTM"
    if layer.bidirectional:
        return f"{kind} is bidirectional; a device trains one direction, use bidirectional=False"
    if not layer.batch_first:
        return f"{kind} takes the sequence as the first axis; use batch_first=True"
    if layer.proj_size:
        return f"{kind} projects its state; use proj_size=0"
    return None


def _message(name: str, layer: nn.RNNBase) -> str:
    dropped = f"; its dropout of {layer.dropout:g} is left out" if layer.dropout else ""
    return f"{type(layer).__name__} at {name or 'the top'} is unrolled over the input's sequence length{dropped}"


def _is_recurrent(part: nn.Module) -> TypeGuard[nn.RNNBase]:
    return isinstance(part, nn.RNNBase)


def _stack(states: Sequence[Tensor]) -> Tensor:
    return states[0].unsqueeze(0) if len(states) == 1 else torch.stack(list(states))

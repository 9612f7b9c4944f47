"""Rules whose other tests are tables of cases, over shapes and arguments that hypothesis draws, against torch."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from model_export.export import compile_model
from model_export.losses import CROSS_ENTROPY
from model_export.parity import Subject, check_parity

WIDTH = 6
seeds = st.integers(0, 2**31)
few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
shapes = st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple)


class Between(nn.Module):
    """A linear layer to `WIDTH` along the last axis, a function of what it gives, and three logits of all of that."""

    def __init__(self, function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.first, self.function = nn.Linear(2, WIDTH), function
        self.last = nn.Linear(function(self.first(torch.zeros(2, *shape, 2))).flatten(1).shape[1], 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.tanh(self.function(self.first(inputs))).flatten(1))
        return logits


def require_torch(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], seed: int) -> None:
    """At full width, and for half of the neurons where torch can run the function on them."""
    torch.manual_seed(seed)
    module = Between(function, shape)
    graph, layout = compile_model(module, (*shape, 2))
    whole, *halves = check_parity(Subject(module, graph, layout, CROSS_ENTROPY), Path(), (), seed)
    assert whole.agrees, whole
    assert not whole.unanswered
    assert [half for half in halves if not half.agrees] == []


ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    *(functional.relu, functional.elu, functional.selu, functional.celu, functional.softplus, functional.hardswish),
    *(functional.leaky_relu, functional.relu6, functional.hardtanh, functional.hardsigmoid, functional.gelu),
    *(functional.silu, functional.mish, torch.sigmoid, torch.tanh, torch.erf, torch.exp, torch.sin, torch.cos),
    *(torch.abs, lambda x: torch.sqrt(x * x + 0.1), lambda x: torch.log(x * x + 0.1), lambda x: 1 / (x * x + 0.5)),
]


@given(function=st.sampled_from(ACTIVATIONS), shape=shapes, seed=seeds)
@settings(few, max_examples=50)
def test_activations(function: Callable[[Tensor], Tensor], shape: tuple[int, ...], seed: int) -> None:
    require_torch(function, shape, seed)


@given(shape=shapes, data=st.data(), log=st.booleans(), seed=seeds)
@few
def test_softmax(shape: tuple[int, ...], data: st.DataObject, log: bool, seed: int) -> None:
    axis = data.draw(st.integers(1, len(shape) + 1)) - data.draw(st.sampled_from([0, len(shape) + 2]))
    require_torch(lambda x: (torch.log_softmax if log else torch.softmax)(x, axis), shape, seed)


@given(shape=shapes, data=st.data(), seed=seeds)
@few
def test_transposes(shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    order = data.draw(st.permutations(range(1, len(shape) + 2)))
    require_torch(lambda x: x.permute(0, *order), shape, seed)


@given(shape=shapes, data=st.data(), seed=seeds)
@few
def test_reshapes(shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    entries = prod(shape) * WIDTH
    first = data.draw(st.sampled_from([size for size in range(1, entries + 1) if entries % size == 0]))
    rest = entries // first
    second = data.draw(st.sampled_from([size for size in range(1, rest + 1) if rest % size == 0]))
    target = data.draw(st.permutations([first, second, rest // second]))
    left_open = data.draw(st.sampled_from([None, 0, 1, 2]))
    sizes = [-1 if axis == left_open else size for axis, size in enumerate(target)]
    require_torch(lambda x: x.reshape(x.shape[0], *sizes), shape, seed)


@given(shape=shapes, data=st.data(), copies=st.integers(1, 3), seed=seeds)
@few
def test_axes_of_size_1_and_copies(shape: tuple[int, ...], data: st.DataObject, copies: int, seed: int) -> None:
    axis = data.draw(st.integers(1, len(shape) + 2))
    sizes = [-1] * axis + [copies] + [-1] * (len(shape) + 2 - axis)
    require_torch(lambda x: (x.unsqueeze(axis).expand(sizes) * x.unsqueeze(axis)).sum(axis, keepdim=True), shape, seed)


@given(shape=shapes, data=st.data(), seed=seeds)
@few
def test_parts(shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    """Split unevenly or evenly, joined in another order along an axis, and cut out."""
    axis = data.draw(st.integers(1, len(shape) + 1))
    size = (*shape, WIDTH)[axis - 1]
    part = data.draw(st.integers(1, size))
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))

    def moved(x: Tensor) -> Tensor:
        parts = x.split(part, axis)
        return torch.cat([*parts[::-1], x.narrow(axis, start, stop - start)], axis)

    require_torch(moved, shape, seed)


@given(shape=shapes, data=st.data(), seed=seeds)
@few
def test_padding(shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(1, len(shape) + 1))
    low = [0 if size < 3 else -1 for size in (*shape, WIDTH)[::-1][:count] for _ in range(2)]
    pads = [data.draw(st.integers(least, 2)) for least in low]
    require_torch(lambda x: functional.pad(x, pads, value=0.5), shape, seed)


@given(shape=shapes, data=st.data(), seed=seeds)
@few
def test_entries_by_index(shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    axis = data.draw(st.integers(1, len(shape) + 1))
    size = (*shape, WIDTH)[axis - 1]
    places = torch.tensor(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5)))
    require_torch(lambda x: x.index_select(axis, places), shape, seed)


@given(image=st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple), largest=st.booleans(), seed=seeds)
@few
def test_pools_over_all_of_space(image: tuple[int, ...], largest: bool, seed: int) -> None:
    kinds = {
        (1, False): functional.adaptive_avg_pool1d,
        (1, True): functional.adaptive_max_pool1d,
        (2, False): functional.adaptive_avg_pool2d,
        (2, True): functional.adaptive_max_pool2d,
    }
    require_torch(lambda x: kinds[len(image), largest](x.movedim(-1, 1), 1), image, seed)

"""Equal entries of a window: the gradient goes to the first maximum, as in torch, in every form of the rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from model_export.autodiff.rules import pooling
from model_export.export import compile_model
from model_export.training_graphs import train_step
from tests.graph_outputs import run

CLASSES = 3


@st.composite
def windows(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    rank, kernel, stride = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    sizes = {"kernel_size": kernel, "stride": stride, "padding": draw(st.integers(0, kernel // 2))}
    image = draw(st.tuples(*[st.integers(kernel, 9)] * rank))
    return (nn.MaxPool1d if rank == 1 else nn.MaxPool2d)(**sizes), image


@given(window=windows(), long=st.booleans(), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ties_in_windows_are_settled_as_in_torch(
    window: tuple[nn.Module, tuple[int, ...]], long: bool, seed: int
) -> None:
    """Of entries that are one of few numbers; in blocks of rows, and where rows are too long for that."""
    layer, image = window
    scale = torch.from_numpy(np.random.default_rng(seed).integers(-1, 2, (2, *image)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooling, "LONGEST_BLOCK", 0 if long else 128)
        require_ties_as_in_torch(layer, scale)


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, padding=1), nn.AdaptiveMaxPool2d(1)])
def test_a_tie_is_settled_as_in_torch(layer: nn.Module) -> None:
    require_ties_as_in_torch(layer, torch.ones(1, 4, 4))


def require_ties_as_in_torch(layer: nn.Module, scale: Tensor) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(scale)
            self.head = nn.Linear(layer(scale[None]).numel(), CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.head(layer((images * 0 + 1) * self.scale).flatten(1))
            return logits

    module = Flat()
    graph, layout = compile_model(module, tuple(scale.shape))
    batch, targets = np.zeros((2, *scale.shape), np.float32), np.array([0, 2])
    feeds = {"batch": batch, "targets": targets, "example_weights": np.ones(2, np.float32), **graph.parameters}
    found = run(train_step(graph, layout), feeds)["grad.scale"]
    functional.cross_entropy(module(torch.from_numpy(batch)), torch.from_numpy(targets)).backward()
    np.testing.assert_allclose(found, module.scale.grad.numpy(), atol=1e-6)

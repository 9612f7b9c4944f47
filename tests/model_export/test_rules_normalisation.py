"""Group, instance and layer normalisation against torch at full width and for a random half of the neurons."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.losses import CROSS_ENTROPY
from model_export.normalisation import plain_nodes
from model_export.parity import Subject, check_parity

seeds = st.integers(0, 2**31)
few = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
"""The same examples every time: where few entries happen to be alike, float32 is far from exact."""


class InstanceNorm(nn.Module):
    """Takes its number of channels from its parameters."""

    def __init__(self, channels: int, *, affine: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels)) if affine else None
        self.bias = nn.Parameter(torch.empty(channels)) if affine else None

    def forward(self, maps: Tensor) -> Tensor:
        return nn.functional.instance_norm(maps, None, None, self.weight, self.bias)


class PlainLayerNorm(nn.Module):
    """Over the last axis, whatever its size."""

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.layer_norm(inputs, inputs.shape[-1:])


class ScaleAlone(nn.GroupNorm):
    """Without a shift."""

    def forward(self, maps: Tensor) -> Tensor:
        return nn.functional.group_norm(maps, self.num_groups, self.weight)


def around(norm: nn.Module, channels: int, image: tuple[int, ...]) -> nn.Module:
    """A layer before that makes `channels`, and one behind that reads them."""
    if not image:
        return nn.Sequential(nn.Linear(3, channels, bias=False), norm, nn.Tanh(), nn.Linear(channels, 3))
    kind = nn.Conv1d if len(image) == 1 else nn.Conv2d
    return nn.Sequential(kind(2, channels, 3, padding=1, bias=False), norm, nn.Tanh(), kind(channels, 3, 1), Pool())


class Pool(nn.Module):
    """The mean over all axes but the first two."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).mean(2)


def require_torch(module: nn.Module, input_shape: tuple[int, ...], seed: int, **groups: int) -> None:
    torch.manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    graph, layout = compile_model(module, input_shape)
    assert layout.group_sizes == {name.replace("layer", ""): size for name, size in groups.items()}
    found = check_parity(Subject(module, graph, layout, CROSS_ENTROPY), Path(), (), seed)
    assert len(found) == 1 + bool(groups)
    assert [comparison for comparison in found if comparison.unanswered or not comparison.agrees] == []


@given(
    groups=st.integers(1, 4),
    each=st.integers(2, 4),
    image=st.lists(st.integers(4, 6), max_size=2).map(tuple),
    affine=st.booleans(),
    seed=seeds,
)
@few
def test_group_norm(groups: int, each: int, image: tuple[int, ...], affine: bool, seed: int) -> None:
    each *= 1 if image else 6
    norm = nn.GroupNorm(groups, groups * each, affine=affine)
    input_shape = (2, *image) if image else (3,)
    require_torch(around(norm, groups * each, image), input_shape, seed, layer0=each)


def test_group_norm_without_a_shift() -> None:
    require_torch(around(ScaleAlone(2, 8), 8, (4, 4)), (2, 4, 4), 0, layer0=4)


@given(channels=st.integers(2, 5), image=st.lists(st.integers(5, 7), min_size=1, max_size=2).map(tuple), seed=seeds)
@pytest.mark.parametrize("affine", [True, False])
@few
def test_instance_norm(affine: bool, channels: int, image: tuple[int, ...], seed: int) -> None:
    norm = InstanceNorm(channels, affine=affine)
    require_torch(around(norm, channels, image), (2, *image), seed, layer0=channels)


def test_a_group_for_each_channel_is_an_instance_norm() -> None:
    module = around(nn.GroupNorm(4, 4), 4, (4, 4))
    assert compile_model(module, (2, 4, 4))[1].group_sizes == {"0": 4}


@pytest.mark.parametrize("scale", ["learned", "frozen", "none"])
def test_a_scale_of_ones_leaves_all_channels_to_be_cut(scale: str) -> None:
    norm = nn.LayerNorm(6, elementwise_affine=scale != "none").requires_grad_(scale == "learned")
    module = nn.Sequential(nn.Linear(3, 6), norm, nn.Linear(6, 3))
    graph, layout = compile_model(module, (3,))
    assert layout.group_sizes == {"0": 6}
    assert (("1.weight" in graph.parameters), "1.bias" in graph.constants) == (scale == "learned", False)


@given(
    leading=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    width=st.integers(9, 14),
    affine=st.booleans(),
    seed=seeds,
)
@pytest.mark.parametrize("bias", [True, False])
@few
def test_layer_norm(bias: bool, leading: tuple[int, ...], width: int, affine: bool, seed: int) -> None:
    norm = nn.LayerNorm(width, bias=bias) if affine else PlainLayerNorm()
    layers = [nn.Linear(3, width, bias=False), norm, nn.Tanh(), nn.Linear(width, 3), nn.Flatten()]
    module = nn.Sequential(*layers, nn.Linear(3 * torch.Size(leading).numel(), 3))
    require_torch(module, (*leading, 3), seed, layer0=width, layer3=3)


@pytest.mark.parametrize("shape", [(4, 3, 3), (3, 3), (3,)])
def test_layer_norm_over_several_axes(shape: tuple[int, ...]) -> None:
    require_torch(around(nn.LayerNorm(shape), 4, (3, 3)), (2, 3, 3), 0, layer0=4)


def test_a_norm_of_a_residual_stream_is_cut_with_it() -> None:
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Linear(3, 12), nn.LayerNorm(12)
            self.block, self.head = nn.Linear(12, 12), nn.Linear(12, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            stream = self.stem(inputs)
            logits: Tensor = self.head(stream + torch.tanh(self.block(self.norm(stream))))
            return logits

    require_torch(Stream(), (3,), 0, stem=12)


def test_two_groupings_of_one_stream_are_cut_in_the_finer() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.two, self.four = nn.Conv1d(2, 16, 1), nn.GroupNorm(2, 16), nn.GroupNorm(4, 16)
            self.head = nn.Linear(16, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            stream = self.stem(inputs)
            logits: Tensor = self.head((torch.tanh(self.two(stream)) + self.four(stream)).mean(2))
            return logits

    require_torch(Twice(), (2, 9), 0, stem=4)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_norms_in_a_row_and_of_the_same_input(groups: int) -> None:
    """Each keeps statistics of its own until the backward pass reads them."""

    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv1d(2, 8, 3), nn.Conv1d(8, 3, 1)
            self.first, self.same = nn.GroupNorm(groups, 8), nn.GroupNorm(groups, 8, eps=0.1)
            self.second = nn.GroupNorm(groups, 8)

        def forward(self, inputs: Tensor) -> Tensor:
            stream = self.stem(inputs)
            stream = torch.tanh(self.first(stream)) + self.same(stream)
            logits: Tensor = self.head(torch.tanh(self.second(stream))).mean(2)
            return logits

    torch.manual_seed(0)
    module = Norms()
    graph, layout = compile_model(module, (2, 32))
    found = check_parity(Subject(module, graph, layout, CROSS_ENTROPY), Path(), (), 0)
    assert [comparison for comparison in found if not comparison.agrees] == []


def test_entries_far_from_zero() -> None:
    """Deviations are taken from the mean, not from sums of squares, where float32 would have few digits left."""

    class Far(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.head = nn.Linear(3, 64), nn.GroupNorm(2, 64), nn.Linear(64, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.head(torch.tanh(self.norm(self.stem(inputs) + 100)))
            return logits

    require_torch(Far(), (3,), 0, stem=32)


def test_graphs_hold_only_operators_that_runtimes_know() -> None:
    module = nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(2, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    graph, _ = compile_model(module, (3,))
    assert [node.op_type for node in graph.nodes] == ["Gemm", "GroupNormalization", "LayerNormalization", "Gemm"]
    plain = {node.op_type for node in plain_nodes(graph.nodes, graph.shapes)}
    assert not plain & {"GroupNormalization", "LayerNormalization", "InstanceNormalization"}


def test_a_norm_over_the_batch_is_refused() -> None:
    class OverBatch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.head(nn.functional.layer_norm(inputs, inputs.shape))
            return logits

    with pytest.raises(ExportError, match="over the batch axis mixes examples"):
        compile_model(OverBatch(), (4,))

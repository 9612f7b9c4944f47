"""Each gradient and score rule against torch, over shapes that hypothesis draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from torch import nn

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.reverse import differentiate
from model_export.autodiff.support import require_supported
from model_export.export import compile_model
from model_export.forward_graph import ForwardGraph, make_model, trace
from model_export.torch_trace import INPUT, OUTPUT
from model_export.training_graphs import fisher
from tests.graph_outputs import run

seeds = st.integers(0, 2**31)
thorough = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class WithHead(nn.Module):
    """`body`, whatever shape it gives, made into three logits by a fixed projection."""

    def __init__(self, body: nn.Module, input_shape: tuple[int, ...], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        for parameter in body.parameters():
            nn.init.normal_(parameter)
        self.body = body
        with torch.no_grad():
            features = body(torch.zeros(2, *input_shape)).flatten(1).shape[1]
        self.head = nn.Linear(features, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(inputs).flatten(1))
        return logits


def gradients(graph: ForwardGraph, batch: np.ndarray, seed: np.ndarray) -> dict[str, np.ndarray]:
    """Gradients of sum(output * seed) by parameters and by the input, in onnxruntime."""
    require_supported(graph.nodes, graph.shapes)
    g = GraphBuilder()
    g.nodes.extend(graph.nodes)
    wanted = [*graph.parameters, INPUT]
    found = differentiate(g, graph.nodes, graph.shapes, {OUTPUT: "seed"}, wanted)
    arrays = {**graph.constants, **graph.parameters}
    shapes = {INPUT: batch.shape, "seed": seed.shape, **{name: array.shape for name, array in graph.parameters.items()}}
    outputs = [helper.make_tensor_value_info(g.rename(found[name], f"d.{name}"), 1, shapes[name]) for name in wanted]
    inputs = [helper.make_tensor_value_info(name, 1, shapes[name]) for name in (INPUT, "seed")]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model = make_model(helper.make_graph(g.nodes, "gradients", inputs, outputs, [*tensors, *g.initializers()]))
    computed = run(model, {INPUT: batch, "seed": seed})
    return {name: computed[f"d.{name}"] for name in wanted}


def require_same_gradients(body: nn.Module, input_shape: tuple[int, ...], seed: int, batch_size: int = 4) -> None:
    module = WithHead(body, input_shape, seed)
    generator = np.random.default_rng(seed)
    batch = generator.normal(size=(batch_size, *input_shape)).astype(np.float32)
    output_seed = generator.normal(size=(batch_size, 3)).astype(np.float32)
    found = gradients(trace(module, input_shape), batch, output_seed)
    module.double()
    inputs = torch.from_numpy(batch).double().requires_grad_()
    (module(inputs) * torch.from_numpy(output_seed)).sum().backward()
    expected = {INPUT: inputs.grad, **{name: parameter.grad for name, parameter in module.named_parameters()}}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        reference = gradient.numpy()
        assert found[name].shape == reference.shape
        np.testing.assert_allclose(found[name], reference, rtol=0, atol=1e-5 * max(1e-3, np.abs(reference).max()))


def require_same_scores(body: nn.Module, input_shape: tuple[int, ...], seed: int) -> None:
    module = WithHead(body, input_shape, seed)
    graph, layout = compile_model(module, input_shape)
    generator = np.random.default_rng(seed)
    batch = generator.normal(size=(3, *input_shape)).astype(np.float32)
    targets = generator.integers(0, 3, 3)
    feeds = {"batch": batch, "targets": targets, "example_weights": np.ones(3, np.float32), **graph.parameters}
    feeds["clip_norm"] = np.array(np.inf, np.float32)
    found = run(fisher(graph, layout), feeds)
    expected = {f"fisher.{group.name}": np.zeros(group.size) for group in layout.groups}
    module.double()
    for example, target in zip(torch.from_numpy(batch).double(), torch.from_numpy(targets), strict=True):
        module.zero_grad()
        nn.functional.cross_entropy(module(example[None]), target[None]).backward()
        squares = {name: parameter.grad.numpy() ** 2 for name, parameter in module.named_parameters()}
        for parameter in layout.parameters:
            for cut in parameter.cuts:
                if cut.produces:
                    moved = np.moveaxis(squares[parameter.name], cut.axis, 0).reshape(parameter.shape[cut.axis], -1)
                    expected[f"fisher.{cut.group}"] += moved.sum(axis=1).reshape(-1, cut.block).sum(axis=1)
    assert found.keys() == expected.keys()
    assert found
    for name, scores in expected.items():
        np.testing.assert_allclose(found[name], scores, rtol=0, atol=1e-4 * max(1e-6, scores.max()))


@given(features=st.integers(1, 6), outputs=st.integers(1, 6), bias=st.booleans(), batch=st.integers(1, 5), seed=seeds)
@thorough
def test_gemm(features: int, outputs: int, bias: bool, batch: int, seed: int) -> None:
    require_same_gradients(nn.Linear(features, outputs, bias=bias), (features,), seed, batch)
    require_same_scores(nn.Linear(features, outputs, bias=bias), (features,), seed)


class MatMul(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inner, outer))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weight


@given(leading=st.lists(st.integers(1, 4), max_size=2), inner=st.integers(1, 5), outer=st.integers(1, 5), seed=seeds)
@thorough
def test_matmul_of_any_rank(leading: list[int], inner: int, outer: int, seed: int) -> None:
    require_same_gradients(MatMul(inner, outer), (*leading, inner), seed)
    if not leading:
        require_same_scores(MatMul(inner, outer), (inner,), seed)


@pytest.mark.parametrize("leading", [(4,), (2, 3)])
def test_scores_of_a_matmul_over_positions(leading: tuple[int, ...]) -> None:
    body = nn.Sequential(MatMul(3, 5), nn.ReLU(), MatMul(5, 2))
    require_same_scores(body, (*leading, 3), 1)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    rank = draw(st.integers(1, 2))
    sides = st.tuples(*[st.integers(1, 3)] * rank)
    kernel, stride, dilation = draw(sides), draw(sides), draw(sides)
    padding = draw(st.tuples(*[st.integers(0, 2)] * rank))
    image = draw(st.tuples(*[st.integers(1, 9)] * rank))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(size + 2 * pad >= extent for size, pad, extent in zip(image, padding, reach, strict=True)))
    channels, filters = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kind = nn.Conv1d if rank == 1 else nn.Conv2d
    return kind(channels, filters, kernel, stride, padding, dilation, bias=draw(st.booleans())), (channels, *image)


@given(convolution=convolutions(), batch=st.integers(1, 4), seed=seeds)
@settings(thorough, max_examples=80)
def test_conv(convolution: tuple[nn.Module, tuple[int, ...]], batch: int, seed: int) -> None:
    require_same_gradients(*convolution, seed, batch)


@given(convolution=convolutions(), seed=seeds)
@settings(thorough, max_examples=40)
def test_scores_of_conv(convolution: tuple[nn.Module, tuple[int, ...]], seed: int) -> None:
    require_same_scores(*convolution, seed)


def test_conv_in_three_dimensions() -> None:
    require_same_gradients(nn.Conv3d(2, 3, 2, stride=2, padding=1), (2, 5, 4, 3), 0)
    require_same_scores(nn.Conv3d(2, 3, 2, stride=2, padding=1), (2, 5, 4, 3), 0)


@given(
    rank=st.integers(1, 2),
    kernel=st.integers(1, 3),
    gap=st.integers(0, 2),
    extra=st.integers(0, 6),
    seed=seeds,
)
@thorough
def test_max_pool_of_sizes_that_do_not_divide(rank: int, kernel: int, gap: int, extra: int, seed: int) -> None:
    image = tuple(kernel + extra + axis for axis in range(rank))
    pool = (nn.MaxPool1d if rank == 1 else nn.MaxPool2d)(kernel, kernel + gap)
    require_same_gradients(pool, (2, *image), seed)


def test_max_pool_sends_the_gradient_of_a_tie_to_one_place_as_torch() -> None:
    module = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    batch = np.ones((2, 2, 4, 4), dtype=np.float32)
    output_seed = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    found = gradients(trace(module, (2, 4, 4)), batch, output_seed)
    inputs = torch.from_numpy(batch).requires_grad_()
    (module(inputs) * torch.from_numpy(output_seed)).sum().backward()
    np.testing.assert_allclose(found[INPUT], inputs.grad.numpy(), rtol=1e-5)


class AddParameter(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.empty(shape))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.offset


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), data=st.data(), seed=seeds)
@thorough
def test_add_broadcasts(shape: list[int], data: st.DataObject, seed: int) -> None:
    kept = data.draw(st.integers(0, len(shape)))
    own = tuple(data.draw(st.sampled_from([1, size])) for size in shape[len(shape) - kept :])
    if kept == len(shape) and data.draw(st.booleans()):
        own = (1, *own)
    require_same_gradients(AddParameter(own), tuple(shape), seed)


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (4, 3, 3), (4, 1, 3), (4, 3, 1)])
def test_scores_of_a_parameter_added_to_channels(shape: tuple[int, ...]) -> None:
    body = nn.Sequential(nn.Conv2d(2, 4, 3), AddParameter(shape), nn.ReLU(), nn.Conv2d(4, 2, 2))
    require_same_scores(body, (2, 5, 5), 3)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (4, 5), (1, 4, 5)])
def test_scores_of_a_parameter_added_to_features(shape: tuple[int, ...]) -> None:
    body = nn.Sequential(MatMul(3, 5), AddParameter(shape), nn.ReLU(), MatMul(5, 2))
    require_same_scores(body, (4, 3), 3)


class Branches(nn.Module):
    """Add of two branches, of a tensor to itself, and of the input to a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(inputs))
        doubled = hidden + hidden
        return doubled + torch.relu(self.second(doubled)) + inputs


def test_a_tensor_used_more_than_once_gets_the_sum_of_its_gradients() -> None:
    require_same_gradients(Branches(), (5,), 0)


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=seeds)
@thorough
def test_flatten_and_relu(shape: list[int], seed: int) -> None:
    require_same_gradients(nn.Sequential(AddParameter(tuple(shape)), nn.ReLU(), nn.Flatten()), tuple(shape), seed)


def test_relu_has_no_gradient_at_zero() -> None:
    graph = trace(nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), (4,))
    batch = np.array([[-1, 0, -0.0, 1e-40]], dtype=np.float32)
    found = gradients(graph, batch, np.ones((1, 3), dtype=np.float32))
    assert (found[INPUT][0] != 0).tolist() == [False, False, False, True]


@given(shape=st.sampled_from([(2, 6), (3, 4), (12,), (1, 3, 4), (2, 3, 2)]), seed=seeds)
@thorough
def test_reshape_in_the_middle(shape: tuple[int, ...], seed: int) -> None:
    body = nn.Sequential(nn.Linear(5, 12), nn.Unflatten(1, shape), nn.ReLU())
    require_same_gradients(body, (5,), seed)


class Twice(nn.Module):
    """One layer used twice, and another whose weight it shares."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.tied = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.tied.weight = self.again.weight

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.again(torch.relu(self.again(torch.relu(self.first(batch))))))
        return torch.relu(self.tied(hidden))


def test_scores_of_layers_used_twice_are_those_of_the_summed_gradient() -> None:
    require_same_scores(Twice(), (4,), seed=0)

"""Convolutions and pooling against torch: gradients, per-example norms, clipped sums and scores, at any width."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from model_export.autodiff import depthwise, image_matrices, row_blocks, tap_rows, weight_products
from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.forward_graph import ForwardGraph
from model_export.training_graphs import evaluate, fisher, private_step, train_step
from tests.graph_outputs import run
from wire_protocol.layout import Layout
from wire_protocol.sub_model import SubModel, full_sub_model, gather, sub_shape

Arrays = dict[str, np.ndarray]
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

TOLERANCE = 1e-4
CLASSES = 3
seeds = st.integers(0, 2**31)
thorough = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Grouped(nn.Module):
    """A convolution whose groups follow from its weight, so that torch can call it at every width."""

    def __init__(self, convolution: Convolution) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.settings = convolution.stride, convolution.padding, convolution.dilation
        self.apply_to = getattr(functional, f"conv{self.weight.dim() - 2}d")

    def forward(self, images: Tensor) -> Tensor:
        groups = int(images.shape[1]) // self.weight.shape[1]
        result: Tensor = self.apply_to(images, self.weight, self.bias, *self.settings, groups)
        return result


class Between(nn.Module):
    """A pointwise convolution to `channels`, the layer, its mean over space, and three logits."""

    def __init__(self, layer: nn.Module, channels: int, image: tuple[int, ...], *, reads_all: bool = False) -> None:
        super().__init__()
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(image)]
        self.first, self.layer, self.reads_all = kind(2, channels, 1), layer, reads_all
        with torch.no_grad():
            size = self.features(torch.zeros(2, 2, *image)).shape[1]
        self.head = nn.Linear(size, CLASSES)

    def features(self, inputs: Tensor) -> Tensor:
        maps: Tensor = self.layer(self.first(inputs))
        maps = maps * torch.sigmoid(maps)
        return maps.flatten(1) if self.reads_all else maps.flatten(2).mean(2)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(inputs))
        return logits


def require_same(module: nn.Module, input_shape: tuple[int, ...], seed: int) -> None:
    """All graphs at full width and at a random sub-model."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    graph, layout = compile_model(module, input_shape)
    graphs = [make(graph, layout) for make in (train_step, private_step, fisher, evaluate)]
    generator = np.random.default_rng(seed)
    kept = {
        group.name: np.sort(generator.choice(group.size, generator.integers(1, group.size + 1), replace=False))
        for group in layout.groups
    }
    for sub_model in (full_sub_model(layout), SubModel(kept)):
        require_same_at(module, (graph, layout), graphs, sub_model, generator)


def require_same_at(
    module: nn.Module,
    compiled: tuple[ForwardGraph, Layout],
    graphs: list[ModelProto],
    sub_model: SubModel,
    generator: np.random.Generator,
) -> None:
    graph, layout = compiled
    parameters = gather(layout, sub_model, graph.parameters)
    count = int(generator.integers(1, 5))
    batch = generator.normal(size=(count, *graph.input_shape)).astype(np.float32)
    targets = generator.integers(0, CLASSES, count)
    expected = example_gradients(module, parameters, batch, targets)
    norms = torch.sqrt(sum(gradient.flatten(1).square().sum(1) for gradient in expected.values()))
    clip_norm = norms.median()
    factors = torch.clamp(clip_norm / norms, max=1)
    feeds = {"batch": batch, "targets": targets, "example_weights": np.ones(count, np.float32), **parameters}
    feeds["clip_norm"] = np.asarray(clip_norm, np.float32)
    train, private, scored = (run(model, feeds) for model in graphs[:3])
    run(graphs[3], feeds)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        require_close(train[f"grad.{name}"], gradient.mean(0), largest)
        require_close(private[f"grad.{name}"], torch.einsum("n,n...->...", factors, gradient), largest)
    require_close(private["norms"], norms, 0)
    scores = expected_scores(layout, sub_model, expected, factors)
    for name, score in scores.items():
        require_close(scored[f"fisher.{name}"], score, largest**2)


def example_gradients(
    module: nn.Module, parameters: Arrays, batch: np.ndarray, targets: np.ndarray
) -> dict[str, Tensor]:
    def loss(values: dict[str, Tensor], example: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(module, values, example[None]), target[None])

    doubles = {name: torch.from_numpy(array).double() for name, array in parameters.items()}
    examples = torch.from_numpy(batch).double(), torch.from_numpy(targets)
    return vmap(grad(loss), in_dims=(None, 0, 0))(doubles, *examples)


def expected_scores(
    layout: Layout, sub_model: SubModel, gradients: dict[str, Tensor], factors: Tensor
) -> dict[str, Tensor]:
    totals: dict[str, Tensor] = {}
    for parameter in layout.parameters:
        squares = torch.einsum("n,n...->...", factors**2, gradients[parameter.name] ** 2)
        for cut in parameter.cuts:
            if cut.produces:
                entries = sub_shape(parameter, sub_model.widths)[cut.axis]
                along = squares.movedim(cut.axis, 0).reshape(entries, -1).sum(1)
                score = along.reshape(cut.repeat, -1, cut.block).sum((0, 2))
                totals[cut.group] = totals[cut.group] + score if cut.group in totals else score
    return totals


def require_close(found: np.ndarray, expected: Tensor, largest: float) -> None:
    reference = expected.numpy()
    scale = max(float(np.abs(reference).max(initial=0)), 1e-2 * largest, 1e-6)
    assert found.shape == reference.shape
    np.testing.assert_allclose(found, reference, rtol=0, atol=TOLERANCE * scale)


@st.composite
def convolutions(draw: st.DrawFn, kinds: tuple[str, ...], largest: int = 9) -> tuple[Grouped, int, tuple[int, ...]]:
    """The layer, its input channels and its image."""
    rank = draw(st.integers(1, 2))
    sides = st.tuples(*[st.integers(1, 3)] * rank)
    kernel, stride, dilation = draw(sides), draw(sides), draw(sides)
    padding = draw(st.tuples(*[st.integers(0, 2)] * rank))
    image = draw(st.tuples(*[st.integers(1, largest)] * rank))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    assume(all(size + 2 * pad >= extent for size, pad, extent in zip(image, padding, reach, strict=True)))
    groups, several = {"dense": (1, 3), "groups": (2, 2), "depthwise": (3, 1), "several": (3, 2)}[
        draw(st.sampled_from(kinds))
    ]
    channels = groups * (1 if groups == 3 else draw(st.integers(2, 3)))
    kind = nn.Conv1d if rank == 1 else nn.Conv2d
    bias = draw(st.booleans())
    made = kind(channels, groups * several, kernel, stride, padding, dilation, groups, bias)
    return Grouped(made), channels, image


@given(convolution=convolutions(("dense", "groups")), seed=seeds)
@thorough
def test_conv(convolution: tuple[Grouped, int, tuple[int, ...]], seed: int) -> None:
    layer, channels, image = convolution
    require_same(Between(layer, channels, image), (2, *image), seed)


@given(convolution=convolutions(("dense",)), together=st.booleans(), seed=seeds)
@settings(thorough, max_examples=50)
def test_conv_by_rows_of_taps(convolution: tuple[Grouped, int, tuple[int, ...]], together: bool, seed: int) -> None:
    """Wherever it can be; the weight's gradient as one product for all examples or for each."""
    layer, channels, image = convolution
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tap_rows, "COST_OF_ADDING", 0)
        patch.setattr(weight_products, "LARGE_GRADIENT", 0 if together else 10**6)
        require_same(Between(layer, channels, image), (2, *image), seed)


@pytest.mark.parametrize("padding", [0, 1, (1, 2), (2, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_rows_of_taps_are_chosen(padding: int | tuple[int, int], bias: bool) -> None:
    layer = nn.Conv2d(6, 6, (3, 5), padding=padding, bias=bias)
    graph, layout = compile_model(Between(layer, 6, (7, 8)), (2, 7, 8))
    nodes = train_step(graph, layout).graph.node
    names = {name for node in nodes if node.op_type in ("Conv", "ConvTranspose") for name in node.input}
    assert "layer.weight" not in names
    require_same(Between(layer, 6, (7, 8)), (2, 7, 8), 3)


@given(convolution=convolutions(("depthwise", "several")), whole=st.booleans(), gathered=st.booleans(), seed=seeds)
@settings(thorough, max_examples=50)
def test_depthwise(convolution: tuple[Grouped, int, tuple[int, ...]], whole: bool, gathered: bool, seed: int) -> None:
    """Of the whole image or of blocks of rows; examples' gradients gathered or shifted."""
    layer, channels, image = convolution
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_matrices, "WHOLE_IMAGE", 10**6 if whole else 0)
        patch.setattr(row_blocks, "WIDE_ENOUGH", 20)
        patch.setattr(depthwise, "FEW_POSITIONS", 10**6 if gathered else 0)
        patch.setattr(depthwise, "LONG_ROW", 6)
        require_same(Between(layer, channels, image), (2, *image), seed)


@given(convolution=convolutions(("depthwise", "several")), seed=seeds)
@thorough
def test_depthwise_tap_by_tap(convolution: tuple[Grouped, int, tuple[int, ...]], seed: int) -> None:
    layer, channels, image = convolution
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_matrices, "WHOLE_IMAGE", 0)
        patch.setattr(depthwise, "LONGEST_ROW", 0)
        require_same(Between(layer, channels, image), (2, *image), seed)


@pytest.mark.parametrize(("image", "stride"), [((48, 40), 1), ((30, 44), 2), ((3, 200), 1), ((25, 5), 1), ((130,), 2)])
def test_depthwise_at_the_limits_of_its_forms(image: tuple[int, ...], stride: int) -> None:
    kind = nn.Conv1d if len(image) == 1 else nn.Conv2d
    require_same(Between(Grouped(kind(4, 4, 3, stride, 1, groups=4)), 4, image), (2, *image), 0)


def test_a_padded_image_that_no_tap_meets() -> None:
    layer = Grouped(nn.Conv1d(2, 2, 2, stride=9, padding=4, dilation=8, groups=2))
    require_same(Between(layer, 2, (1,)), (2, 1), 0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 1, stride=2),
        nn.Conv2d(20, 24, 3, padding=1),
        nn.Conv2d(20, 24, 3, stride=2, padding=1),
        nn.Conv2d(20, 24, 1),
        nn.Conv2d(4, 3, 3, padding=3),
        nn.Conv2d(2, 3, 3, padding="same", dilation=2),
        nn.Conv2d(2, 3, 3, padding="valid"),
        nn.Sequential(nn.ZeroPad2d((2, 0, 1, 3)), nn.Conv2d(4, 4, 3, padding=1)),
        nn.Sequential(nn.ConstantPad2d((2, 0, 1, 3), 0.0), nn.Conv2d(3, 4, 3, stride=2)),
    ],
    ids=["strided 1x1", "Gram", "Gram of patches", "Gram of 1x1", "wide padding", "same", "valid", "zeros", "constant"],
)
def test_forms_of_conv(layer: nn.Module) -> None:
    first = layer[-1] if isinstance(layer, nn.Sequential) else layer
    require_same(Between(layer, first.in_channels, (3, 4)), (2, 3, 4), 1)


def test_conv_in_three_dimensions() -> None:
    require_same(Between(nn.Conv3d(2, 3, 2, stride=2, padding=1), 2, (5, 4, 3)), (2, 5, 4, 3), 0)


def test_a_convolution_used_twice() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1)
    require_same(Between(nn.Sequential(layer, nn.Sigmoid(), layer), 4, (5, 5)), (2, 5, 5), 0)


def test_zeros_around_an_image_become_pads() -> None:
    module = nn.Sequential(
        nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(2, 3, 3, dilation=2), nn.Flatten(), nn.Linear(18, 3)
    )
    graph, _ = compile_model(module, (2, 6))
    assert [node.op_type for node in graph.nodes] == ["Conv", "Flatten", "Gemm"]
    pads = next(attribute for attribute in graph.nodes[0].attribute if attribute.name == "pads")
    assert list(pads.ints) == [4, 0]


def cuts_of(module: nn.Module, *input_shape: int) -> dict[str, list[tuple[int, str, int, int, bool]]]:
    _, layout = compile_model(module, input_shape)
    return {
        parameter.name: [(c.axis, c.group, c.block, c.repeat, c.produces) for c in parameter.cuts]
        for parameter in layout.parameters
    }


def test_depthwise_channels_are_cut_with_what_they_read() -> None:
    module = Between(nn.Conv2d(4, 8, 3, groups=4), 4, (5, 5))
    cuts = cuts_of(module, 2, 5, 5)
    assert cuts["first.weight"] == [(0, "first", 1, 1, True)]
    assert cuts["layer.weight"] == [(0, "first", 2, 1, True)]
    assert cuts["layer.bias"] == [(0, "first", 2, 1, True)]
    assert cuts["head.weight"] == [(1, "first", 2, 1, False)]
    _, layout = compile_model(module, (2, 5, 5))
    assert {p.name: p.uses_per_example for p in layout.parameters}["layer.weight"] == 9


def test_groups_are_cut_alike() -> None:
    cuts = cuts_of(Between(nn.Conv2d(6, 4, 3, groups=2), 6, (5, 5)), 2, 5, 5)
    assert cuts["first.weight"] == [(0, "first", 1, 2, True)]
    assert cuts["layer.weight"] == [(0, "layer", 1, 2, True), (1, "first", 1, 1, False)]
    assert cuts["head.weight"] == [(1, "layer", 1, 2, False)]


def test_no_node_of_a_training_graph_has_a_group_for_each_channel() -> None:
    graph, layout = compile_model(Between(nn.Conv2d(4, 4, 3, groups=4), 4, (5, 5)), (2, 5, 5))
    for make in (train_step, private_step, fisher, evaluate):
        for node in make(graph, layout).graph.node:
            assert all(attribute.i <= 1 for attribute in node.attribute if attribute.name == "group")
    onnx.checker.check_model(graph.to_model(), full_check=True)


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    rank, kernel, stride = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    dilation, padding, extra = draw(st.integers(1, 2)), draw(st.integers(0, 1)), draw(st.integers(0, stride - 1))
    image = tuple(range(3, 3 + rank))
    assume(all((size - 1) * stride - 2 * padding + (kernel - 1) * dilation + 1 + extra > 0 for size in image))
    settings_of = {"padding": padding, "output_padding": extra, "dilation": dilation, "bias": draw(st.booleans())}
    return (nn.ConvTranspose1d if rank == 1 else nn.ConvTranspose2d)(3, 4, kernel, stride, **settings_of), image


@given(layer=transposed_convolutions(), seed=seeds)
@settings(thorough, max_examples=25)
def test_conv_transpose(layer: tuple[nn.Module, tuple[int, ...]], seed: int) -> None:
    require_same(Between(layer[0], 3, layer[1]), (2, *layer[1]), seed)


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, dict[str, int], tuple[int, ...]]:
    rank, kernel, stride = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    padding = draw(st.integers(0, kernel // 2))
    image = draw(st.tuples(*[st.integers(kernel, 9)] * rank))
    return rank, {"kernel_size": kernel, "stride": stride, "padding": padding}, image


@given(window=windows(), dilation=st.integers(1, 2), seed=seeds)
@thorough
def test_max_pool(window: tuple[int, dict[str, int], tuple[int, ...]], dilation: int, seed: int) -> None:
    rank, sizes, image = window
    reach = (sizes["kernel_size"] - 1) * dilation + 1
    assume(all(size + 2 * sizes["padding"] >= reach for size in image))
    layer = (nn.MaxPool1d if rank == 1 else nn.MaxPool2d)(**sizes, dilation=dilation)
    require_same(Between(layer, 3, image, reads_all=True), (2, *image), seed)


@given(window=windows(), counted=st.booleans(), seed=seeds)
@thorough
def test_average_pool(window: tuple[int, dict[str, int], tuple[int, ...]], counted: bool, seed: int) -> None:
    rank, sizes, image = window
    layer = (nn.AvgPool1d if rank == 1 else nn.AvgPool2d)(**sizes, count_include_pad=counted)
    require_same(Between(layer, 3, image, reads_all=True), (2, *image), seed)


@pytest.mark.parametrize(
    "layer",
    [
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveMaxPool2d(1),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, ceil_mode=True),
    ],
)
def test_pools_without_sizes(layer: nn.Module) -> None:
    require_same(Between(layer, 3, (4, 6), reads_all=True), (2, 4, 6), 0)


@pytest.mark.parametrize("layer", [nn.AdaptiveAvgPool1d(1), nn.AdaptiveMaxPool1d(1)])
def test_pools_of_a_sequence(layer: nn.Module) -> None:
    require_same(Between(layer, 3, (7,), reads_all=True), (2, 7), 0)


@pytest.mark.parametrize(
    ("layer", "image", "reason"),
    [
        (nn.Conv3d(4, 4, 2, groups=4), (3, 3, 3), "Conv of each channel by itself over 3 axes; supported are 1 and 2"),
        (nn.ConvTranspose2d(4, 4, 2, groups=2), (3, 3), "ConvTranspose with groups = 2; supported is groups = 1"),
        (
            nn.ConvTranspose2d(4, 4, 2, stride=1, dilation=2, output_padding=1),
            (3, 3),
            "output padding of at least the stride; use less",
        ),
        (nn.MaxPool2d(2, ceil_mode=True), (5, 5), "MaxPool with windows that ceil_mode adds; use ceil_mode=False"),
        (nn.AvgPool3d(2), (4, 4, 4), "AveragePool over 3 axes; supported are 1 and 2"),
    ],
)
def test_what_is_refused_says_what_to_use(layer: nn.Module, image: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        compile_model(Between(layer, 4, image), (2, *image))

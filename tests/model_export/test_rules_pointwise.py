"""Activations, arithmetic, reductions and softmax against torch: gradients, per-example norms, sums and scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.forward_graph import ForwardGraph
from model_export.training_graphs import evaluate, fisher, private_step, train_step
from tests.graph_outputs import open_graph, outputs_of, run
from wire_protocol.layout import Layout
from wire_protocol.sub_model import SubModel, gather, sub_shape

IMAGE = (2, 4, 5)

Arrays = dict[str, np.ndarray]
Function = Callable[..., Tensor]

seeds = st.integers(0, 2**31)
few = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ranked = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)

ACTIVATIONS: dict[str, Function] = {
    "relu": functional.relu,
    "leaky relu": lambda x: functional.leaky_relu(x, 0.1),
    "leaky relu of a steep slope": lambda x: functional.leaky_relu(x, 2.0),
    "leaky relu of a negative slope": lambda x: functional.leaky_relu(x, -0.5),
    "elu": functional.elu,
    "elu of another size": lambda x: functional.elu(x, 1.7),
    "selu": functional.selu,
    "celu": lambda x: functional.celu(x, 0.6),
    "softplus": lambda x: functional.softplus(x, 1.5),
    "relu6": functional.relu6,
    "hardtanh": lambda x: functional.hardtanh(x, -0.7, 0.4),
    "clamp below": lambda x: x.clamp(min=-0.3),
    "clamp above": lambda x: x.clamp(max=0.3),
    "sigmoid": torch.sigmoid,
    "log sigmoid": functional.logsigmoid,
    "tanh": torch.tanh,
    "tanh shrink": functional.tanhshrink,
    "hard sigmoid": lambda x: functional.hardsigmoid(3 * x),
    "hard swish": lambda x: functional.hardswish(3 * x),
    "gelu": functional.gelu,
    "gelu by tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "mish": functional.mish,
    "soft sign": functional.softsign,
    "soft shrink": functional.softshrink,
    "hard shrink": functional.hardshrink,
}
ARITHMETIC: dict[str, Function] = {
    "negation": lambda x: -x,
    "absolute": torch.abs,
    "exponential": torch.exp,
    "logarithm": lambda x: torch.log(x.abs() + 0.1),
    "root": lambda x: torch.sqrt(x.abs() + 0.1),
    "root as a power": lambda x: (x.abs() + 0.1) ** 0.5,
    "reciprocal root": lambda x: torch.rsqrt(x.abs() + 0.1),
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "power": lambda x: (x.abs() + 0.1) ** 1.3,
    "inverse power": lambda x: (x.abs() + 0.3) ** -1.5,
    "reciprocal": lambda x: 1 / (x.abs() + 0.3),
    "error function": torch.erf,
    "sine and cosine": lambda x: x.sin() + (2 * x).cos(),
    "itself times itself": lambda x: x * x,
    "itself by itself": lambda x: x / x + x,
    "itself minus itself": lambda x: x - x + x,
    "constant minus": lambda x: 1.5 - x,
    "greater of itself and a part": lambda x: torch.maximum(x, 0.5 * x),
    "less of two parts": lambda x: torch.minimum(x.exp(), 1 - x),
    "where": lambda x: torch.where(x > 0.2, 3 * x, x * x),
    "where with a constant": lambda x: x.masked_fill(x < 0, -1.0),
    "mask": lambda x: (x > 0).float() * x,
    "masks of several conditions": lambda x: (((x > 0) & ~(x >= 1)) | (x < -1) | (x <= -2)).float() * x,
    "equal to rounded": lambda x: torch.where(x == x.round(), 2 * x, x) + x.floor() + x.ceil() + x.sign(),
}


class Around(nn.Module):
    """A function, of a parameter too if it has a shape, between layers: of 6 units, or of 6 channels for images."""

    def __init__(
        self, function: Function, input_shape: tuple[int, ...], own: tuple[int, ...] | None = None, first: bool = True
    ) -> None:
        super().__init__()
        torch.manual_seed(1)
        layer = nn.Conv2d(2, 6, 2) if len(input_shape) == 3 else nn.Linear(5, 6)
        self.first = layer if first else nn.Identity()
        self.own = None if own is None else nn.Parameter(torch.rand(own) + 0.5)
        self.function = function
        self.last = nn.Linear(self.hidden(torch.rand(2, *input_shape)).shape[1], 3)

    def hidden(self, inputs: Tensor) -> Tensor:
        owned = [] if self.own is None else [self.own]
        result = self.function(self.first(inputs), *owned)
        return result.flatten(1) if result.ndim > 1 else result[:, None]

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.last(self.hidden(inputs))
        return logits


def random_sub_model(layout: Layout, generator: np.random.Generator) -> SubModel:
    kept = {}
    for group in layout.groups:
        width = int(generator.integers(1, group.size + 1))
        kept[group.name] = np.sort(generator.choice(group.size, width, replace=False))
    return SubModel(kept)


def require_same(found: np.ndarray, expected: Tensor | np.ndarray) -> None:
    reference = np.asarray(expected)
    assert found.shape == reference.shape
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-4 * max(0.1, np.abs(reference).max(initial=0)))


def require_torch(module: nn.Module, input_shape: tuple[int, ...], seed: int, groups: int | None = None) -> None:
    """All graphs of `module` equal torch at a random sub-model; it has so many neuron groups, if given."""
    graph, layout = compile_model(module, input_shape)
    if groups is not None:
        assert len(layout.groups) == groups
    generator = np.random.default_rng(seed)
    sub_model = random_sub_model(layout, generator)
    parameters = gather(layout, sub_model, graph.parameters)
    batch = generator.normal(size=(4, *input_shape)).astype(np.float32)
    targets = generator.integers(0, 3, 4)
    feeds = {"batch": batch, "targets": targets, "example_weights": np.ones(4, np.float32), **parameters}

    def loss(parameters: dict[str, Tensor], example: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(module, parameters, example[None]), target[None])

    doubles = {name: torch.from_numpy(array).double() for name, array in parameters.items()}
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(
        doubles, torch.from_numpy(batch).double(), torch.from_numpy(targets)
    )
    found = run(train_step(graph, layout), feeds)
    logits = functional_call(module, doubles, torch.from_numpy(batch).double())
    require_same(found["loss"], functional.cross_entropy(logits, torch.from_numpy(targets)).detach())
    for name, gradient in gradients.items():
        require_same(found[f"grad.{name}"], gradient.mean(0))
    require_private(graph, layout, feeds, gradients)
    if layout.groups:
        scores = run(fisher(graph, layout), {**feeds, "clip_norm": np.array(np.inf, np.float32)})
        require_scores(scores, layout, sub_model, gradients)


def require_private(graph: ForwardGraph, layout: Layout, feeds: Arrays, gradients: dict[str, Tensor]) -> None:
    norms = torch.sqrt(sum((gradient.reshape(len(gradient), -1) ** 2).sum(1) for gradient in gradients.values()))
    clip_norm = norms.median()
    factors = torch.clamp(clip_norm / norms, max=1)
    found = run(private_step(graph, layout), {**feeds, "clip_norm": clip_norm.float().numpy()})
    require_same(found["norms"], norms)
    for name, gradient in gradients.items():
        require_same(found[f"grad.{name}"], torch.einsum("n,n...->...", factors, gradient))


def require_scores(scores: Arrays, layout: Layout, sub_model: SubModel, gradients: dict[str, Tensor]) -> None:
    for group in layout.groups:
        expected = np.zeros(sub_model.widths[group.name])
        for parameter in layout.parameters:
            shape = sub_shape(parameter, sub_model.widths)
            for cut in parameter.cuts:
                if cut.group == group.name and cut.produces:
                    sums = (gradients[parameter.name].numpy() ** 2).sum(0)
                    rows = np.moveaxis(sums, cut.axis, 0).reshape(shape[cut.axis], -1).sum(1)
                    expected += rows.reshape(cut.repeat, -1, cut.block).sum((0, 2))
        require_same(scores[f"fisher.{group.name}"], expected)


@pytest.mark.parametrize("name", [*ACTIVATIONS, *ARITHMETIC])
def test_functions_of_one_entry(name: str) -> None:
    function = {**ACTIVATIONS, **ARITHMETIC}[name]
    require_torch(Around(function, (5,)), (5,), 0, groups=1)
    require_torch(Around(function, IMAGE), IMAGE, 1, groups=1)


PARAMETERS: dict[str, tuple[tuple[int, ...], Function]] = {
    "channel scale": ((6, 1, 1), lambda x, p: x * p),
    "channel scale with a batch axis": ((1, 6, 1, 1), lambda x, p: p * x),
    "channel scale through unsqueeze": ((6,), lambda x, p: x * p[:, None, None]),
    "channel divisor": ((6, 1, 1), lambda x, p: x / p),
    "channel dividend": ((6, 1, 1), lambda x, p: p / (x * x + 1)),
    "channel shift": ((6, 1, 1), lambda x, p: x + p),
    "channel shift taken off": ((6, 1, 1), lambda x, p: x - p),
    "channel shift that is taken from": ((6, 1, 1), lambda x, p: p - x),
    "scale of every place": ((6, 3, 4), lambda x, p: x * p),
    "scale of every row": ((3, 1), lambda x, p: x * p),
    "scale of every column": ((4,), lambda x, p: x * p),
    "one scale": ((1,), lambda x, p: x * p),
    "one scale used twice": ((1,), lambda x, p: x * p + p / (x * x + 1)),
    "rectifier's slopes": ((6,), functional.prelu),
    "rectifier's only slope": ((1,), functional.prelu),
    "floor": ((6, 1, 1), lambda x, p: torch.maximum(3 * x, p)),
    "ceiling": ((6, 1, 1), lambda x, p: torch.minimum(p, 3 * x)),
    "filling": ((6, 1, 1), lambda x, p: torch.where(x > 0, x, p)),
    "exponent": ((6, 1, 1), lambda x, p: (x.abs() + 0.1) ** p),
    "bound of a clamp": ((6, 1, 1), lambda x, p: x.clamp(min=p)),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_as_operands(name: str) -> None:
    shape, function = PARAMETERS[name]
    for seed in range(2):
        require_torch(Around(function, IMAGE, shape), IMAGE, seed, groups=1)


BINARY: list[Function] = [
    lambda x, p: x + p,
    lambda x, p: p - x,
    lambda x, p: x * p,
    lambda x, p: x / p,
    torch.maximum,
    lambda x, p: torch.minimum(p, x),
    lambda x, p: torch.where(x > 0, p, x),
    lambda x, p: x.abs() ** p,
]


@given(shape=ranked, function=st.sampled_from(BINARY), data=st.data(), seed=seeds)
@settings(few, max_examples=80)
def test_operands_of_any_shape(shape: tuple[int, ...], function: Function, data: st.DataObject, seed: int) -> None:
    kept = data.draw(st.integers(0, len(shape)))
    own = tuple(data.draw(st.sampled_from([1, size])) for size in shape[len(shape) - kept :])
    if kept == len(shape) and data.draw(st.booleans()):
        own = (1, *own)
    require_torch(Around(function, shape, own, first=False), shape, seed)


@given(data=st.data(), function=st.sampled_from(BINARY[:6]), keep=st.booleans(), seed=seeds)
@settings(few, max_examples=20)
def test_activations_broadcast_against_each_other(
    data: st.DataObject, function: Function, keep: bool, seed: int
) -> None:
    axes = data.draw(st.lists(st.sampled_from([2, 3]), min_size=1, unique=True))

    def gated(x: Tensor) -> Tensor:
        gate = x.exp().sum(axes, keepdim=keep) + 1
        for axis in [] if keep else sorted(axes):
            gate = gate.unsqueeze(axis)
        return function(x, gate)

    require_torch(Around(gated, IMAGE), IMAGE, seed, groups=1)


REDUCTIONS: dict[str, Function] = {
    "sum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "mean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "greatest": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "least": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "size": lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep),
    "absolute sum": lambda x, axes, keep: torch.linalg.vector_norm(x, 1, dim=axes, keepdim=keep),
    "log of exponentials": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
    "deviation": lambda x, axes, keep: x.std(axes, keepdim=keep),
    "index": lambda x, axes, keep: x.max(axes[0], keepdim=keep).values,
}


@pytest.mark.parametrize("name", REDUCTIONS)
@given(axes=st.lists(st.sampled_from([1, 2, 3, -1, -2, -3]), min_size=1, max_size=3), keep=st.booleans(), seed=seeds)
@few
def test_reductions(name: str, axes: list[int], keep: bool, seed: int) -> None:
    distinct = list({axis % 4: axis for axis in axes}.values())
    reduced = {axis % 4 for axis in (distinct[:1] if name == "index" else distinct)}
    module = Around(lambda x: REDUCTIONS[name](x, distinct, keep), IMAGE)
    require_torch(module, IMAGE, seed, groups=0 if 1 in reduced else 1)


@pytest.mark.parametrize("function", [torch.softmax, torch.log_softmax])
@pytest.mark.parametrize("axis", [1, 2, 3, -1, -3])
def test_softmax_over_an_axis_that_is_never_cut(function: Function, axis: int) -> None:
    require_torch(Around(lambda x: function(x, axis), IMAGE), IMAGE, axis + 3, groups=0 if axis in (1, -3) else 1)


@pytest.mark.parametrize(("axis", "group"), [(1, "first"), (2, "own")])
def test_a_sum_over_one_of_two_equal_axes_leaves_the_other_to_be_cut(axis: int, group: str) -> None:
    module = Around(lambda x, p: (x[:, None] * p).sum(axis), (5,), (6, 1))
    _, layout = compile_model(module, (5,))
    assert [found.name for found in layout.groups] == [group]
    require_torch(module, (5,), 0)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x - x.mean(0, keepdim=True), "ReduceMean over the batch axis mixes examples"),
        (lambda x: x * x.sum(0), "ReduceSum over the batch axis mixes examples"),
        (lambda x: x - x.max(), "ReduceMax over the batch axis mixes examples"),
        (lambda x: x.softmax(0), "Softmax over the batch axis mixes examples"),
        (lambda x: x.double().exp().float(), "Cast to double; keep the computation in float32"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_a_reason(function: Function, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        compile_model(Around(function, (5,)), (5,))


def test_a_parameter_that_is_changed_in_a_way_that_is_not_known_is_refused() -> None:
    graph, layout = compile_model(Around(lambda x, p: x * functional.layer_norm(p, (6,)), (5,), (6,)), (5,))
    with pytest.raises(ExportError, match=r"LayerNormalization at .* changes a parameter before an example meets it"):
        private_step(graph, layout)


def test_a_parameter_that_is_only_compared_with_is_refused() -> None:
    graph, layout = compile_model(Around(lambda x, p: x * (x > p).float(), (5,), (6,)), (5,))
    with pytest.raises(
        ExportError, match=r"no gradient reaches the parameters own: freeze them by requires_grad_\(False\)"
    ):
        train_step(graph, layout)


def test_a_parameter_may_be_compared_with_too() -> None:
    require_torch(Around(lambda x, p: torch.where(x > p, x * p, 0.1 * x), (5,), (6,)), (5,), 0, groups=1)


class EveryActivation(nn.Module):
    """Residual blocks, each of one activation, scaled by learned vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.scales = nn.ParameterList(nn.Parameter(torch.full((8, 1, 1), 0.1)) for _ in ACTIVATIONS)
        self.slopes = nn.Parameter(torch.full((8,), 0.25))
        self.last = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.prelu(self.stem(images), self.slopes)
        for scale, activation in zip(self.scales, ACTIVATIONS.values(), strict=True):
            maps = maps + scale * activation(maps)
            maps = maps / (1 + maps.abs().mean((2, 3), keepdim=True))
        logits: Tensor = self.last(maps.mean((2, 3)))
        return logits


@pytest.mark.parametrize("seed", [0, 1])
def test_a_model_of_all_activations_learns_when_sliced_at_random(seed: int) -> None:
    graph, layout = compile_model(EveryActivation(), (1, 6, 6))
    assert [group.size for group in layout.groups] == [8]
    generator = np.random.default_rng(seed)
    sub_model = SubModel({layout.groups[0].name: np.sort(generator.choice(8, 5, replace=False))})
    parameters = gather(layout, sub_model, graph.parameters)
    targets = generator.integers(0, 3, 24)
    batch = (generator.normal(size=(24, 1, 6, 6)) + 2 * targets[:, None, None, None] - 2).astype(np.float32)
    fixed = {"batch": batch, "targets": targets, "example_weights": np.ones(24, np.float32)}
    session = open_graph(train_step(graph, layout))
    losses = []
    for _ in range(100):
        found = outputs_of(session, {**fixed, **parameters})
        losses.append(float(found["loss"]))
        parameters = {name: array - 0.5 * found[f"grad.{name}"] for name, array in parameters.items()}
    assert losses[-1] < 0.7 * losses[0]
    final = run(evaluate(graph, layout), {**fixed, **parameters})
    assert final["loss_sum"] / final["weight_sum"] < losses[-1] + 1e-3

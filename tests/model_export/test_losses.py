"""Losses, their gradients and metrics against torch, on both runtimes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from torch import nn

from model_export.autodiff.builder import GraphBuilder
from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.forward_graph import make_model
from model_export.losses import CROSS_ENTROPY, BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError
from model_export.losses.choice import choose_loss
from model_export.losses.loss import EXAMPLE_WEIGHTS, TARGETS, scaled, weighted_sum
from model_export.ort_artifacts import is_available, write_rung
from model_export.torch_trace import OUTPUT
from model_export.training_graphs import evaluate, fisher, private_step, train_step
from tests.graph_outputs import run
from wire_protocol.bundle_manifest import CHECKPOINT, EVAL_MODEL, TRAINING_MODEL

Arrays = dict[str, np.ndarray]
seeds = st.integers(0, 2**31)
thorough = settings(max_examples=25, deadline=None)


def run_loss(loss: Loss, output: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Arrays:
    """The scaled loss, its gradient and the metrics' sums in onnxruntime."""
    g = GraphBuilder()
    shape = output.shape[1:]
    result = scaled(g, loss, shape, EXAMPLE_WEIGHTS)
    sums = {name: weighted_sum(g, values, EXAMPLE_WEIGHTS) for name, values in loss.metrics(g, shape).items()}
    info = helper.make_tensor_value_info
    inputs = [
        info(OUTPUT, 1, ["n", *shape]),
        info(TARGETS, loss.targets_type, ["n", *loss.target_shape(shape)]),
        info(EXAMPLE_WEIGHTS, 1, ["n"]),
    ]
    outputs = [
        info(g.rename(result.loss, "loss"), 1, []),
        info(g.rename(result.output_gradient, "gradient"), 1, ["n", *shape]),
    ]
    outputs += [info(g.rename(values, name), 1, []) for name, values in sums.items()]
    model = make_model(helper.make_graph(g.nodes, "loss", inputs, outputs, g.initializers()))
    return run(model, {OUTPUT: output, TARGETS: targets, EXAMPLE_WEIGHTS: weights})


def torch_losses(loss: Loss, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of each example."""
    if isinstance(loss, CrossEntropy):
        weights = None if loss.class_weights is None else torch.tensor(loss.class_weights, dtype=output.dtype)
        return nn.functional.cross_entropy(output, targets, weights, reduction="none")
    compare = nn.functional.mse_loss if loss.name == "mse" else nn.functional.binary_cross_entropy_with_logits
    return compare(output, targets.to(output.dtype), reduction="none").reshape(len(output), -1).mean(1)


def draw_targets(loss: Loss, output_shape: tuple[int, ...], count: int, generator: np.random.Generator) -> np.ndarray:
    if loss.name == "cross-entropy":
        return generator.integers(0, output_shape[0], count)
    if loss.name == "mse":
        return generator.normal(size=(count, *output_shape)).astype(np.float32)
    return generator.choice([0, 1, 0.25], size=(count, *output_shape)).astype(np.float32)


@st.composite
def losses(draw: st.DrawFn) -> tuple[Loss, tuple[int, ...]]:
    name = draw(st.sampled_from(["cross-entropy", "mse", "bce"]))
    if name != "cross-entropy":
        return choose_loss(name), tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    classes = draw(st.integers(2, 5))
    weights = draw(st.none() | st.lists(st.floats(0.125, 8, width=32), min_size=classes, max_size=classes))
    return choose_loss(name, weights), (classes,)


@given(drawn=losses(), count=st.integers(1, 5), scale=st.sampled_from([0.1, 1, 30]), seed=seeds)
@thorough
def test_loss_and_gradient_equal_torch(
    drawn: tuple[Loss, tuple[int, ...]], count: int, scale: float, seed: int
) -> None:
    loss, shape = drawn
    generator = np.random.default_rng(seed)
    output = (generator.normal(size=(count, *shape)) * scale).astype(np.float32)
    targets = draw_targets(loss, shape, count, generator)
    weights = generator.choice([0, 1, 0.5], count).astype(np.float32)
    found = run_loss(loss, output, targets, weights)
    exact = torch.from_numpy(output).double().requires_grad_()
    expected = (torch_losses(loss, exact, torch.from_numpy(targets)) * torch.from_numpy(weights)).sum()
    expected.backward()
    assert exact.grad is not None
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    largest = exact.grad.abs().max().item()
    np.testing.assert_allclose(found["gradient"], exact.grad.numpy(), rtol=0, atol=1e-5 * largest + 1e-7)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), CROSS_ENTROPY])
def test_logits_however_large_have_a_finite_loss(loss: Loss) -> None:
    output = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype=np.float32)
    targets = np.array([[1, 1], [0, 1]], np.float32) if loss.name == "bce" else np.array([1, 1])
    found = run_loss(loss, output, targets, np.ones(2, np.float32))
    assert found["loss"] == pytest.approx(5e3 if loss.name == "bce" else 2e4)
    assert np.isfinite(found["gradient"]).all()


def test_metrics_by_hand() -> None:
    weights = np.array([1, 0.5, 0], np.float32)
    logits = np.array([[1, 2], [3, 0], [0, 1]], np.float32)
    assert run_loss(CROSS_ENTROPY, logits, np.array([1, 1, 1]), weights)["correct_sum"] == 1
    sides = np.array([[1, 1], [0, 0], [1, 1]], np.float32)
    assert run_loss(BinaryCrossEntropy(), logits - 1, sides, weights)["correct_sum"] == 0.5 + 0.5 * 0.5
    assert (
        run_loss(MeanSquaredError(), logits, logits - np.array([[1, -3]], np.float32), weights)["absolute_error_sum"]
        == 2 + 1
    )


@pytest.mark.parametrize("shape", [(), (1,), (3, 2), (1, 1)])
def test_cross_entropy_wants_logits_of_classes(shape: tuple[int, ...]) -> None:
    assert CROSS_ENTROPY.objection(shape) == "logits (batch, classes >= 2)"
    assert MeanSquaredError().objection(shape) is None
    assert BinaryCrossEntropy().objection(shape) is None


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 2.0, 3.0), (-1.0, 1.0), (0.0, 0.0), (float("nan"), 1.0)])
def test_class_weights_are_one_a_class_and_not_negative(weights: tuple[float, ...]) -> None:
    with pytest.raises(ExportError, match=r"one class for each of the class weights .*, got \(batch, 2\)"):
        compile_model(nn.Linear(4, 2), (4,), CrossEntropy(weights))


def test_class_weights_need_classes() -> None:
    with pytest.raises(ExportError, match="class weights are for the loss cross-entropy, got them with mse"):
        choose_loss("mse", [1.0])


class Grid(nn.Module):
    """An output of shape (2, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(5, 8)
        self.output = nn.Linear(8, 6)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.hidden(inputs))).reshape(-1, 2, 3)


class Single(nn.Module):
    """An output without any axis but the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(5, 8)
        self.output = nn.Linear(8, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.hidden(inputs)))


CASES: list[tuple[Loss, type[nn.Module]]] = [
    (CrossEntropy((0.5, 2.0, 1.0)), Single),
    (MeanSquaredError(), Single),
    (MeanSquaredError(), Grid),
    (BinaryCrossEntropy(), Single),
    (BinaryCrossEntropy(), Grid),
]


def example_feeds(loss: Loss, output_shape: tuple[int, ...]) -> Arrays:
    generator = np.random.default_rng(7)
    return {
        "batch": generator.normal(size=(6, 5)).astype(np.float32),
        "targets": draw_targets(loss, output_shape, 6, generator),
        "example_weights": np.array([1, 1, 0, 1, 1, 1], np.float32),
    }


@pytest.mark.parametrize(("loss", "build"), CASES)
def test_the_graphs_train_with_the_loss(loss: Loss, build: type[nn.Module]) -> None:
    torch.manual_seed(1)
    module = build()
    graph, layout = compile_model(module, (5,), loss)
    feeds = example_feeds(loss, graph.output_shape)
    kept = [0, 1, 3, 4, 5]
    x, y = torch.from_numpy(feeds["batch"][kept]), torch.from_numpy(feeds["targets"][kept])
    each = torch_losses(loss, module(x), y)
    gradients = [torch.autograd.grad(value, list(module.parameters()), retain_graph=True) for value in each]
    norms = [float(sum((part**2).sum() for part in gradient)) ** 0.5 for gradient in gradients]
    bound = float(np.median(norms))

    given = {**feeds, **graph.parameters}
    step, sums = run(train_step(graph, layout, loss), given), run(evaluate(graph, layout, loss), given)
    private = run(private_step(graph, layout, loss), {**given, "clip_norm": np.array(bound, np.float32)})
    scores = run(fisher(graph, layout, loss), {**given, "clip_norm": np.array(np.inf, np.float32)})
    assert step["loss"] == pytest.approx(each.mean().item(), rel=1e-5)
    assert sums["loss_sum"] == pytest.approx(each.sum().item(), rel=1e-5)
    assert sums["weight_sum"] == 5
    np.testing.assert_allclose(private["norms"][kept], norms, rtol=1e-5)
    for index, (name, _) in enumerate(module.named_parameters()):
        parts = np.stack([gradient[index].numpy() for gradient in gradients])
        factors = np.minimum(1, bound / np.array(norms)).reshape(-1, *[1] * (parts.ndim - 1))
        np.testing.assert_allclose(step[f"grad.{name}"], parts.mean(0), rtol=0, atol=1e-6)
        np.testing.assert_allclose(private[f"grad.{name}"], (parts * factors).sum(0), rtol=0, atol=1e-5)
    own = sum((gradient[0] ** 2).sum(1) + gradient[1] ** 2 for gradient in gradients)
    np.testing.assert_allclose(scores["fisher.hidden"], own, rtol=1e-4)


@pytest.mark.skipif(not is_available(), reason="needs onnxruntime-training")
@pytest.mark.parametrize(("loss", "build"), CASES)
def test_onnxruntime_training_has_the_same_loss_and_step(loss: Loss, build: type[nn.Module], tmp_path) -> None:
    from onnxruntime.training import api  # noqa: PLC0415 - only where it is installed

    torch.manual_seed(1)
    module = build()
    graph, layout = compile_model(module, (5,), loss)
    write_rung(graph.to_model(), layout, layout.group_sizes, tmp_path, loss)
    state = api.CheckpointState.load_checkpoint(tmp_path / CHECKPOINT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    rung = api.Module(tmp_path / TRAINING_MODEL, state, tmp_path / EVAL_MODEL, session_options=options)
    flat = np.concatenate([array.ravel() for array in graph.parameters.values()])
    rung.copy_buffer_to_parameters(onnxruntime.OrtValue.ortvalue_from_numpy(flat)._ortvalue, trainable_only=False)
    feeds = example_feeds(loss, graph.output_shape)
    portable = run(train_step(graph, layout, loss), {**feeds, **graph.parameters})
    assert rung.train()(*feeds.values()) == pytest.approx(portable["loss"], rel=1e-5)
    for name in graph.parameters:
        gradient = state.parameters[name].grad
        np.testing.assert_allclose(gradient, portable[f"grad.{name}"], rtol=0, atol=1e-6)


def test_an_output_of_the_batch_axis_alone() -> None:
    """Elements of an example are a mean over nothing but itself."""
    found = run_loss(
        MeanSquaredError(), np.array([3.0, 1.0], np.float32), np.zeros(2, np.float32), np.ones(2, np.float32)
    )
    assert (found["loss"], found["gradient"].tolist()) == (10, [6, 2])

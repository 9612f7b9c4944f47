"""The graphs of a bundle against torch, for whole models and random sub-models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import ModelProto
from torch import nn
from torch.func import functional_call, grad, vmap

from model_export.export import compile_model
from model_export.forward_graph import ForwardGraph
from model_export.training_graphs import evaluate, fisher, train_step
from model_export.zoo.lenet import lenet
from model_export.zoo.mlp import mlp
from tests.graph_outputs import open_graph, outputs_of
from wire_protocol.layout import Layout
from wire_protocol.sub_model import SubModel, full_sub_model, gather

Arrays = dict[str, np.ndarray]
CLASSES = 7


class Residual(nn.Module):
    """A residual stream, a channel-wise parameter, a reshape in the middle and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.block = nn.Conv2d(6, 6, 3, stride=1, padding=1)
        self.offset = nn.Parameter(torch.randn(6, 1, 1))
        self.mid = nn.Linear(6 * 9, 12, bias=False)
        self.conv = nn.Conv1d(3, 5, 2)
        self.head = nn.Linear(5 * 3, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.stem(images))
        maps = torch.max_pool2d(maps + torch.relu(self.block(maps)) + self.offset, 2)
        hidden = torch.relu(self.mid(maps.flatten(1)) + 1.0)
        logits: torch.Tensor = self.head(torch.relu(self.conv(hidden.unflatten(1, (-1, 4)))).flatten(1))
        return logits


class Case:
    """A model with its graphs in onnxruntime."""

    def __init__(self, build: Callable[[], nn.Module], input_shape: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        self.module = build()
        self.input_shape = input_shape
        self.graph, self.layout = compile_model(self.module, input_shape)
        self.models = graphs(self.graph, self.layout)
        self.sessions = {name: open_graph(model) for name, model in self.models.items()}

    def run(self, name: str, feeds: Arrays) -> Arrays:
        return outputs_of(self.sessions[name], feeds)

    def loss(self, parameters: dict[str, torch.Tensor], batch: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = functional_call(self.module, parameters, (batch,))
        return nn.functional.cross_entropy(logits, targets, reduction="none")


def graphs(graph: ForwardGraph, layout: Layout) -> dict[str, ModelProto]:
    return {
        "train_step": train_step(graph, layout),
        "fisher": fisher(graph, layout),
        "evaluate": evaluate(graph, layout),
        "predict": graph.to_model(),
    }


@pytest.fixture(scope="module", params=["mlp", "lenet", "residual"])
def case(request: pytest.FixtureRequest) -> Case:
    return {
        "mlp": lambda: Case(lambda: mlp((1, 5, 5), CLASSES, (12, 9)), (1, 5, 5)),
        "lenet": lambda: Case(lambda: lenet((1, 28, 28), CLASSES), (1, 28, 28)),
        "residual": lambda: Case(Residual, (2, 7, 7)),
    }[request.param]()


def example_feeds(case: Case, count: int, seed: int = 0) -> Arrays:
    generator = np.random.default_rng(seed)
    return {
        "batch": generator.normal(size=(count, *case.input_shape)).astype(np.float32),
        "targets": generator.integers(0, CLASSES, count),
        "example_weights": np.ones(count, dtype=np.float32),
        "clip_norm": np.array(np.inf, dtype=np.float32),
        **case.graph.parameters,
    }


def random_sub_model(layout: Layout, seed: int) -> SubModel:
    generator = np.random.default_rng(seed)
    return SubModel(
        {
            group.name: np.sort(generator.permutation(group.size)[: generator.integers(1, group.size + 1)])
            for group in layout.groups
        }
    )


def sub_models(case: Case) -> list[SubModel]:
    return [full_sub_model(case.layout), *(random_sub_model(case.layout, seed) for seed in range(1, 6))]


def as_tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array.astype(np.float64)).requires_grad_() for name, array in arrays.items()}


def torch_inputs(feeds: Arrays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, targets = torch.from_numpy(feeds["batch"]).double(), torch.from_numpy(feeds["targets"])
    return batch, targets, torch.from_numpy(feeds["example_weights"]).double()


def require_close(found: np.ndarray, expected: np.ndarray, relative: float = 1e-5) -> None:
    """Within `relative` of the largest magnitude of the tensor."""
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * np.abs(expected).max(initial=1e-30))


def test_gradients_equal_torch_at_every_width(case: Case) -> None:
    for sub_model in sub_models(case):
        feeds = example_feeds(case, 6)
        feeds["example_weights"] = np.array([1, 0.5, 2, 0, 1, 3], dtype=np.float32)
        feeds |= gather(case.layout, sub_model, case.graph.parameters)
        parameters = as_tensors({p.name: feeds[p.name] for p in case.layout.parameters})
        batch, targets, weights = torch_inputs(feeds)
        loss = (weights * case.loss(parameters, batch, targets)).sum() / weights.sum()
        loss.backward()
        outputs = case.run("train_step", feeds)
        require_close(outputs["loss"], loss.detach().numpy())
        assert list(outputs) == ["loss", *(f"grad.{name}" for name in parameters)]
        for name, parameter in parameters.items():
            require_close(outputs[f"grad.{name}"], parameter.grad.numpy())


def without_dropped(layout: Layout, sub_model: SubModel, full: Arrays) -> Arrays:
    """Full arrays in which nothing reads a neuron that the sub-model drops."""
    arrays = {name: array.copy() for name, array in full.items()}
    for parameter in layout.parameters:
        for cut in parameter.cuts:
            if not cut.produces:
                dropped = np.setdiff1d(np.arange(layout.group_sizes[cut.group]), sub_model.kept[cut.group])
                entries = (dropped[:, None] * cut.block + np.arange(cut.block)).ravel()
                np.moveaxis(arrays[parameter.name], cut.axis, 0)[entries] = 0
    return arrays


def test_a_sub_model_computes_what_the_whole_does_without_the_dropped_neurons(case: Case) -> None:
    for sub_model in sub_models(case)[1:]:
        feeds = example_feeds(case, 6)
        narrow = case.run("evaluate", feeds | gather(case.layout, sub_model, case.graph.parameters))
        whole = case.run("evaluate", feeds | without_dropped(case.layout, sub_model, case.graph.parameters))
        require_close(narrow["loss_sum"], whole["loss_sum"])


def expected_scores(case: Case, sub_model: SubModel, feeds: Arrays) -> Arrays:
    parameters = as_tensors({p.name: feeds[p.name] for p in case.layout.parameters})
    batch, targets, weights = torch_inputs(feeds)

    def one(values: dict[str, torch.Tensor], example: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return case.loss(values, example[None], target[None])[0]

    gradients = vmap(grad(one), in_dims=(None, 0, 0))(parameters, batch, targets)
    scores = {group: np.zeros(width) for group, width in sub_model.widths.items()}
    for parameter in case.layout.parameters:
        squared = torch.einsum("n,n...->...", weights**2, gradients[parameter.name] ** 2).detach().numpy()
        for cut in parameter.cuts:
            if cut.produces:
                entries = np.moveaxis(squared, cut.axis, 0).reshape(squared.shape[cut.axis], -1).sum(axis=1)
                scores[cut.group] += entries.reshape(-1, cut.block).sum(axis=1)
    return scores


def test_fisher_equals_squared_per_example_gradients(case: Case) -> None:
    for sub_model in sub_models(case):
        feeds = example_feeds(case, 5)
        feeds["example_weights"] = np.array([1, 0, 1, 0.5, 1], dtype=np.float32)
        feeds |= gather(case.layout, sub_model, case.graph.parameters)
        outputs = case.run("fisher", feeds)
        expected = expected_scores(case, sub_model, feeds)
        assert set(outputs) == {f"fisher.{group}" for group in expected}
        for group, scores in expected.items():
            require_close(outputs[f"fisher.{group}"], scores, relative=1e-4)


def test_fisher_scores_every_group(case: Case) -> None:
    assert set(case.layout.group_sizes) == {
        tensor.name.removeprefix("fisher.") for tensor in case.models["fisher"].graph.output
    }


def test_evaluate_sums_losses_and_hits(case: Case) -> None:
    for sub_model in sub_models(case)[:3]:
        feeds = example_feeds(case, 9)
        feeds["example_weights"] = np.array([1, 1, 0, 2, 1, 1, 0.5, 1, 1], dtype=np.float32)
        feeds |= gather(case.layout, sub_model, case.graph.parameters)
        parameters = as_tensors({p.name: feeds[p.name] for p in case.layout.parameters})
        batch, targets, weights = torch_inputs(feeds)
        hits = functional_call(case.module, parameters, (batch,)).argmax(1) == targets
        outputs = case.run("evaluate", feeds)
        require_close(outputs["loss_sum"], (weights * case.loss(parameters, batch, targets)).sum().detach().numpy())
        assert outputs["correct_sum"] == (weights * hits).sum().item()
        assert outputs["weight_sum"] == 8.5


@pytest.mark.parametrize("count", [1, 7, 33])
def test_predict_equals_torch_for_any_batch(case: Case, count: int) -> None:
    feeds = example_feeds(case, count, seed=count)
    expected = case.module(torch.from_numpy(feeds["batch"])).detach().numpy()
    require_close(case.run("predict", feeds)["output"], expected)


@pytest.mark.parametrize("count", [1, 7, 33])
def test_no_graph_depends_on_the_batch(case: Case, count: int) -> None:
    """A batch's gradients, scores and sums are those of its examples one by one."""
    feeds = example_feeds(case, count, seed=count)
    whole = {name: case.run(name, feeds) for name in ("train_step", "fisher", "evaluate")}
    sums: dict[str, dict[str, np.ndarray]] = {name: {} for name in whole}
    for index in range(count):
        single = {**feeds, **{name: feeds[name][index : index + 1] for name in ("batch", "targets", "example_weights")}}
        for name, totals in sums.items():
            for output, value in case.run(name, single).items():
                totals[output] = totals.get(output, np.float32(0)) + value
    for name, outputs in whole.items():
        for output, value in outputs.items():
            expected = sums[name][output] / (count if name == "train_step" else 1)
            require_close(value, expected, relative=1e-4)


@pytest.mark.parametrize("name", ["train_step", "fisher", "evaluate"])
def test_examples_of_weight_zero_change_nothing(case: Case, name: str) -> None:
    feeds = example_feeds(case, 4)
    padded = {
        **feeds,
        "batch": np.concatenate([feeds["batch"], np.full((3, *case.input_shape), 50, np.float32)]),
        "targets": np.concatenate([feeds["targets"], [0, CLASSES - 1, 1]]),
        "example_weights": np.array([1, 1, 1, 1, 0, 0, 0], dtype=np.float32),
    }
    expected = case.run(name, feeds)
    for output, value in case.run(name, padded).items():
        require_close(value, expected[output])


def test_only_padding_gives_zeros(case: Case) -> None:
    feeds = {**example_feeds(case, 3), "example_weights": np.zeros(3, dtype=np.float32)}
    for name in ("train_step", "fisher", "evaluate"):
        for value in case.run(name, feeds).values():
            assert not value.any()


def test_graphs_are_portable(case: Case) -> None:
    for model in case.models.values():
        assert model.ir_version <= 10
        assert [opset.domain for opset in model.opset_import] == [""]
        assert model.opset_import[0].version <= 20
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


def test_graphs_hold_no_dead_node(case: Case) -> None:
    for name, model in case.models.items():
        read = {tensor for node in model.graph.node for tensor in node.input} | {t.name for t in model.graph.output}
        dead = [node.name for node in model.graph.node if not read & set(node.output)]
        assert not dead, f"{name} computes {dead} for nothing"


def test_cut_axes_are_symbolic_and_others_are_not(case: Case) -> None:
    inputs = {tensor.name: tensor.type.tensor_type.shape.dim for tensor in case.models["train_step"].graph.input}
    for parameter in case.layout.parameters:
        symbolic = {axis for axis, dim in enumerate(inputs[parameter.name]) if dim.dim_param}
        assert symbolic == {cut.axis for cut in parameter.cuts}


def test_gradients_are_taken_as_soon_as_their_deltas_are_there() -> None:
    """Makers of outputs come last, in the order of layers: onnxruntime starts at the end."""
    graph, layout = compile_model(mlp((1, 4, 4), CLASSES), (1, 4, 4))
    model = train_step(graph, layout).graph
    outputs = [output.name for output in model.output]
    assert [node.output[0] for node in model.node[-len(outputs) :]] == outputs
    assert outputs == ["loss", *(f"grad.{parameter.name}" for parameter in layout.parameters)]

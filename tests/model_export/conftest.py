"""The zoo's models with all their graphs, compiled once a session, and torch's answer for any sub-model of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from model_export.export import compile_model
from model_export.forward_graph import ForwardGraph
from model_export.losses import Loss
from model_export.losses.choice import choose_loss
from model_export.model_source import build_model
from model_export.module_rewrites.trainable_form import trainable_form
from model_export.narrow_module import narrowed
from model_export.parity import smallest_table
from model_export.training_graphs import evaluate, fisher, private_step, train_step
from model_export.zoo import ZOO, ZOO_INPUT_SHAPES, ZOO_LOSSES
from tests.graph_outputs import open_graph, outputs_of
from wire_protocol.layout import Layout
from wire_protocol.sub_model import SubModel, full_sub_model, gather

Arrays = dict[str, np.ndarray]

TORCH_LOSSES = {"cross-entropy": nn.functional.cross_entropy, "mse": nn.functional.mse_loss}
CLASSES = 10
EXAMPLES = 5
NARROWEST = 0.25


@dataclass(frozen=True)
class ZooModel:
    """A zoo model as it is exported, and its graphs by name."""

    name: str
    module: nn.Module
    graph: ForwardGraph
    layout: Layout
    loss: Loss
    graphs: dict[str, ModelProto]
    sessions: dict[str, Any] = field(default_factory=dict)

    def run(self, graph: str, feeds: Arrays) -> Arrays:
        """Outputs by name, on this environment's onnxruntime; `feeds` may hold more than the graph takes."""
        if graph not in self.sessions:
            self.sessions[graph] = open_graph(self.graphs[graph])
        return outputs_of(self.sessions[graph], feeds)

    def sub_model(self, seed: int | None) -> SubModel:
        """Neurons drawn at random, of every group another share of at least a quarter; all of them without a seed."""
        if seed is None:
            return full_sub_model(self.layout)
        generator = np.random.default_rng(seed)
        kept = {}
        for group in self.layout.groups:
            width = max(1, round(generator.uniform(NARROWEST, 1) * group.size))
            kept[group.name] = np.sort(generator.choice(group.size, width, replace=False))
        return SubModel(kept)

    def feeds(self, sub_model: SubModel) -> Arrays:
        """Inputs of `train_step` on random examples, the last of which is padding."""
        generator = np.random.default_rng(0)
        shape, words = (EXAMPLES, *self.graph.input_shape), smallest_table(self.graph)
        drawn = generator.standard_normal(shape) if words is None else generator.integers(0, words, shape)
        batch = drawn.astype(np.float32)
        weights = np.ones(EXAMPLES, dtype=np.float32)
        weights[-1] = 0.0
        labelled = self.loss.name == "cross-entropy"
        targets = generator.integers(0, CLASSES, EXAMPLES) if labelled else batch
        parameters = gather(self.layout, sub_model, self.graph.parameters)
        return {"batch": batch, "targets": targets, "example_weights": weights, **parameters}

    def example_gradients(self, feeds: Arrays) -> dict[str, Tensor]:
        """Torch's gradient of every example that is not padding, (examples, *shape of the parameter)."""
        parameters = {name: torch.from_numpy(feeds[name]) for name in self.graph.parameters}
        module = narrowed(self.module, parameters)
        loss_of = TORCH_LOSSES[self.loss.name]

        def loss(parameters: dict[str, Tensor], example: Tensor, target: Tensor) -> Tensor:
            return loss_of(functional_call(module, parameters, example[None]), target[None])

        real = torch.from_numpy(feeds["example_weights"]) > 0
        batch, targets = torch.from_numpy(feeds["batch"])[real], torch.from_numpy(feeds["targets"])[real]
        return vmap(grad(loss), in_dims=(None, 0, 0))(parameters, batch, targets)


def build_zoo_model(name: str) -> ZooModel:
    shape, loss = ZOO_INPUT_SHAPES[name], choose_loss(ZOO_LOSSES.get(name, "cross-entropy"))
    module, _ = trainable_form(build_model(name, shape, CLASSES, seed=0))
    graph, layout = compile_model(module, shape, loss)
    makers = {"train_step": train_step, "private_step": private_step, "fisher": fisher, "evaluate": evaluate}
    graphs = {kind: make(graph, layout, loss) for kind, make in makers.items()}
    return ZooModel(name, module, graph, layout, loss, {**graphs, "predict": graph.to_model()})


@pytest.fixture(scope="session", params=list(ZOO))
def zoo_model(request: pytest.FixtureRequest) -> ZooModel:
    return build_zoo_model(request.param)

"""Devices that train on float targets, on both runtimes, and a server that evaluates them; torch is the oracle."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge_client.fisher import FisherScorer
from edge_client.local_data import batches
from edge_client.training.portable import PortableRuntime
from edge_client.training.runtime import TrainingRuntime
from model_export.export import export_bundle
from model_export.losses.choice import choose_loss
from model_export.ort_artifacts import is_available
from server.evaluation import Evaluator
from wire_protocol.bundle_manifest import EVALUATE, BundleManifest, LossName
from wire_protocol.examples import Examples, examples_from, fit_examples

LEARNING_RATE = 0.3


@dataclass(frozen=True)
class Case:
    module: nn.Module
    folder: Path
    manifest: BundleManifest
    examples: Examples


@pytest.fixture(scope="module", params=["mse", "bce", "auto-encoder"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.manual_seed(2)
    outputs = 4 if request.param == "auto-encoder" else 1
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs))
    loss: LossName = "bce" if request.param == "bce" else "mse"
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    rungs = (1.0,) if is_available() else ()
    manifest = export_bundle(module, (4,), folder, name="own", rungs=rungs, loss=choose_loss(loss))
    generator = np.random.default_rng(0)
    arrays = {"x": generator.normal(size=(20, 4)).astype(np.float32)}
    if request.param == "bce":
        arrays["y"] = arrays["x"].sum(1) > 0
    elif request.param == "mse":
        arrays["y"] = arrays["x"].sum(1)
    examples = fit_examples(examples_from(arrays, "d", labelled=False), manifest, "d")
    return Case(module, folder, manifest, examples)


def runtimes(case: Case) -> list[TrainingRuntime]:
    found: list[TrainingRuntime] = [PortableRuntime.open(case.folder, case.manifest.layout)]
    if is_available():
        module = importlib.import_module("edge_client.training.ort_training")
        found.append(module.OrtTrainingRuntime.open(case.folder, case.manifest, 1))
    return found


def torch_loss(case: Case, module: nn.Module, examples: Examples) -> torch.Tensor:
    name = case.manifest.loss
    compare = nn.functional.mse_loss if name == "mse" else nn.functional.binary_cross_entropy_with_logits
    return compare(module(torch.from_numpy(examples.x)), torch.from_numpy(examples.y))


def initial(case: Case) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy().copy() for name, parameter in case.module.named_parameters()}


def test_training_equals_torch_and_the_loss_goes_down(case: Case) -> None:
    drawn = list(batches(case.examples, 5, 12, np.random.default_rng(1)))
    twin = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, case.manifest.output_shape[0]))
    twin.load_state_dict(case.module.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), lr=LEARNING_RATE)
    before = torch_loss(case, twin, case.examples).item()
    for batch in drawn:
        optimizer.zero_grad()
        torch_loss(case, twin, batch).backward()
        optimizer.step()
    assert torch_loss(case, twin, case.examples).item() < 0.8 * before
    for runtime in runtimes(case):
        result = runtime.train(initial(case), drawn, LEARNING_RATE)
        for name, parameter in twin.named_parameters():
            np.testing.assert_allclose(result.parameters[name], parameter.detach().numpy(), rtol=0, atol=1e-5)


def test_neurons_are_scored(case: Case) -> None:
    scores = FisherScorer.open(case.folder, case.manifest.layout).scores(initial(case), [case.examples])
    assert (scores["0"] > 0).any()


def test_the_server_evaluates(case: Case) -> None:
    result = Evaluator(case.folder / EVALUATE).evaluate(initial(case), case.examples)
    assert result.loss == pytest.approx(torch_loss(case, case.module, case.examples).item(), rel=1e-5)
    if case.manifest.loss == "mse":
        assert result.accuracy is None
    else:
        sides = case.module(torch.from_numpy(case.examples.x)).detach().numpy() > 0
        assert result.accuracy == pytest.approx((sides == case.examples.y.astype(bool)).mean())

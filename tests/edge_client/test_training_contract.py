"""What every training runtime must do, run for each; plain SGD in torch is the oracle."""

import importlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from edge_client.errors import TrainingError
from edge_client.training.portable import PortableRuntime
from edge_client.training.runtime import StepRule
from model_export.export import export_bundle
from model_export.ort_artifacts import is_available
from model_export.zoo import ZOO
from wire_protocol.bundle_manifest import BundleManifest
from wire_protocol.examples import Examples
from wire_protocol.local_training import LocalTraining
from wire_protocol.sub_model import SubModel, gather, widths_at

CLASSES = 6
LEARNING_RATE = 0.2
STEPS = 6
RUNGS = (1.0, 0.5)
INPUTS = {"mlp": (3, 5), "lenet": (1, 14, 14)}
SCALE = {"mlp": 1.0, "lenet": 1.5}
"""LeNet's initial logits hardly depend on its early layers; larger weights let every layer learn in few steps."""


class Case(NamedTuple):
    module: nn.Module
    bundle_dir: Path
    manifest: BundleManifest
    full: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=INPUTS)
def case(request, tmp_path_factory):
    name = request.param
    torch.manual_seed(3)
    module = ZOO[name](INPUTS[name], CLASSES)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(SCALE[name])
    bundle_dir = tmp_path_factory.mktemp(name) / "bundle"
    manifest = export_bundle(module, INPUTS[name], bundle_dir, name=name, rungs=RUNGS if is_available() else ())
    full = {key: parameter.detach().numpy().copy() for key, parameter in module.named_parameters()}
    return Case(module, bundle_dir, manifest, full)


def open_runtime(name, case):
    if name == "portable":
        return PortableRuntime.open(case.bundle_dir, case.manifest.layout)
    if not is_available():
        pytest.skip("this environment has no onnxruntime-training")
    module = importlib.import_module("edge_client.training.ort_training")
    return module.OrtTrainingRuntime.open(case.bundle_dir, case.manifest, 1)


@pytest.fixture(params=["portable", "ort-training"])
def runtime(request, case):
    return open_runtime(request.param, case)


def sub_parameters(case, keep, seed=0):
    """Parameters of a sub-model that keeps neurons drawn at random."""
    generator = np.random.default_rng(seed)
    widths = widths_at(case.manifest.layout, keep)
    kept = {
        group.name: np.sort(generator.choice(group.size, widths[group.name], replace=False))
        for group in case.manifest.layout.groups
    }
    return gather(case.manifest.layout, SubModel(kept), case.full)


def draw_batches(case, sizes=(8,) * STEPS, seed=1):
    generator = np.random.default_rng(seed)
    return [
        Examples(
            generator.standard_normal((size, *case.manifest.input_shape), dtype=np.float32),
            generator.integers(0, CLASSES, size),
        )
        for size in sizes
    ]


def torch_sgd(case, parameters, batches, learning_rate):
    tensors = {key: torch.from_numpy(array.copy()).requires_grad_() for key, array in parameters.items()}
    optimizer = torch.optim.SGD(tensors.values(), lr=learning_rate)
    losses = []
    for batch in batches:
        logits = torch.func.functional_call(case.module, tensors, torch.from_numpy(batch.x))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {key: tensor.detach().numpy() for key, tensor in tensors.items()}, float(np.mean(losses))


def assert_close(actual, expected, base):
    """Every value and every change is within 1e-5 of the tensor's largest, float32 rounding of the values aside."""
    assert list(actual) == list(expected)
    for key, want in expected.items():
        assert actual[key].dtype == np.float32
        assert actual[key].shape == want.shape
        largest, moved = np.abs(want).max(), np.abs(want - base[key]).max()
        assert moved > 1e-3 * largest, key
        assert np.abs(actual[key] - want).max() <= 1e-5 * moved + 1e-6 * largest, key


@pytest.mark.parametrize("keep", RUNGS)
def test_equals_sgd_in_torch(runtime, case, keep):
    parameters, batches = sub_parameters(case, keep), draw_batches(case)
    expected, loss = torch_sgd(case, parameters, batches, LEARNING_RATE)
    result = runtime.train(parameters, batches, LEARNING_RATE)
    assert_close(result.parameters, expected, parameters)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.examples == 8 * STEPS


def test_takes_batches_of_any_size_from_an_iterator(runtime, case):
    parameters, batches = sub_parameters(case, 0.5), draw_batches(case, sizes=(1, 7, 3, 16))
    expected, loss = torch_sgd(case, parameters, batches, LEARNING_RATE)
    result = runtime.train(parameters, iter(batches), LEARNING_RATE)
    assert_close(result.parameters, expected, parameters)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.examples == 27


def test_leaves_its_inputs_alone(runtime, case):
    parameters, batches = sub_parameters(case, 0.5), draw_batches(case)
    before = {key: array.copy() for key, array in parameters.items()}
    examples = [(batch.x.copy(), batch.y.copy()) for batch in batches]
    result = runtime.train(parameters, batches, LEARNING_RATE)
    for key, array in before.items():
        np.testing.assert_array_equal(parameters[key], array)
        assert not np.shares_memory(parameters[key], result.parameters[key])
    for batch, (x, y) in zip(batches, examples, strict=True):
        np.testing.assert_array_equal(batch.x, x)
        np.testing.assert_array_equal(batch.y, y)


def test_takes_read_only_arrays(runtime, case):
    parameters, batches = sub_parameters(case, 0.5), draw_batches(case)
    for array in (*parameters.values(), *(batch.x for batch in batches), *(batch.y for batch in batches)):
        array.setflags(write=False)
    expected, _ = torch_sgd(case, {key: array.copy() for key, array in parameters.items()}, draw_batches(case), 0.1)
    assert_close(runtime.train(parameters, batches, 0.1).parameters, expected, parameters)


def test_remembers_nothing_between_trainings(runtime, case):
    parameters, batches = sub_parameters(case, 0.5), draw_batches(case)
    first = runtime.train(parameters, batches, LEARNING_RATE)
    kept = {key: array.copy() for key, array in first.parameters.items()}
    runtime.train(sub_parameters(case, 1.0), batches, 0.01)
    runtime.train(sub_parameters(case, 0.5, seed=9), batches[:1], 0.01)
    again = runtime.train(parameters, batches, LEARNING_RATE)
    assert again.loss == first.loss
    for key, array in kept.items():
        np.testing.assert_array_equal(first.parameters[key], array)
        np.testing.assert_array_equal(again.parameters[key], array)


def test_works_on_after_a_training_that_broke_off(runtime, case):
    parameters, batches = sub_parameters(case, 0.5), draw_batches(case)
    expected = runtime.train(parameters, batches, LEARNING_RATE)

    def broken():
        yield batches[0]
        raise TrainingError("stopped")

    with pytest.raises(TrainingError, match="stopped"):
        runtime.train(parameters, broken(), LEARNING_RATE)
    with pytest.raises(TrainingError, match="diverged"):
        runtime.train(parameters, batches, 1e30)
    again = runtime.train(parameters, batches, LEARNING_RATE)
    for key, array in expected.parameters.items():
        np.testing.assert_array_equal(again.parameters[key], array)


def test_refuses_to_train_on_nothing(runtime, case):
    with pytest.raises(TrainingError, match="batch"):
        runtime.train(sub_parameters(case, 0.5), [], LEARNING_RATE)


def test_refuses_examples_of_another_shape(runtime, case):
    wrong = Examples(np.zeros((4, *case.manifest.input_shape, 2), dtype=np.float32), np.zeros(4, dtype=np.int64))
    with pytest.raises(TrainingError):
        runtime.train(sub_parameters(case, 0.5), [wrong], LEARNING_RATE)


@pytest.mark.parametrize("keep", RUNGS)
def test_runtimes_agree(case, keep):
    parameters, batches = sub_parameters(case, keep), draw_batches(case)
    portable, other = open_runtime("portable", case), open_runtime("ort-training", case)
    assert (portable.name, other.name) == ("portable", "ort-training")
    ours, theirs = (runtime.train(parameters, batches, LEARNING_RATE) for runtime in (portable, other))
    assert_close(ours.parameters, theirs.parameters, parameters)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
    assert ours.examples == theirs.examples


@pytest.mark.parametrize(
    "rule",
    [
        StepRule(LocalTraining(optimizer="adam")),
        StepRule(LocalTraining(optimizer="momentum")),
        StepRule(LocalTraining(proximal=0.1)),
        StepRule(LocalTraining(clip_gradient=1.0)),
        StepRule(gains={"fc2.weight": 2.0}),
    ],
)
def test_onnxruntime_training_refuses_what_is_not_plain(case, rule):
    parameters, batches = sub_parameters(case, 0.5), draw_batches(case)
    with pytest.raises(TrainingError, match=r'"ort-training" takes plain SGD only .* set runtime = "auto"'):
        open_runtime("ort-training", case).train(parameters, batches, LEARNING_RATE, rule)

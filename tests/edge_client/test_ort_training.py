"""What is special to onnxruntime-training; `test_training_contract.py` has what every runtime must do."""

from hashlib import sha256

import numpy as np
import pytest
import torch

from edge_client.errors import TrainingError
from model_export.export import export_bundle
from model_export.zoo import ZOO
from wire_protocol.examples import Examples
from wire_protocol.sub_model import SubModel, gather

SHAPE = (1, 8, 8)
CLASSES = 4

ort_training = pytest.importorskip("edge_client.training.ort_training")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    module = ZOO["lenet"](SHAPE, CLASSES)
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    manifest = export_bundle(module, SHAPE, folder, name="lenet", rungs=(1.0, 0.5))
    return folder, manifest, {key: parameter.detach().numpy() for key, parameter in module.named_parameters()}


@pytest.fixture
def runtime(bundle):
    folder, manifest, _ = bundle
    return ort_training.OrtTrainingRuntime.open(folder, manifest, 1)


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    return Examples(generator.random((8, *SHAPE), dtype=np.float32), generator.integers(0, CLASSES, 8))


def first_neurons(bundle, widths):
    _, manifest, full = bundle
    return gather(manifest.layout, SubModel({group: np.arange(width) for group, width in widths.items()}), full)


def test_names_widths_and_rungs_where_none_fits(runtime, bundle, batch):
    _, manifest, _ = bundle
    widths = {**manifest.rungs[1].widths}
    group = manifest.layout.groups[0].name
    widths[group] += 1
    with pytest.raises(TrainingError) as caught:
        runtime.train(first_neurons(bundle, widths), [batch], 0.1)
    for known in (widths, manifest.rungs[0].widths, manifest.rungs[1].widths):
        assert str(known) in str(caught.value)


def test_takes_a_rung_for_its_widths_only_when_it_is_trained(bundle, batch, tmp_path):
    folder, manifest, full = bundle
    narrow = manifest.rungs[1]
    (tmp_path / narrow.folder).mkdir(parents=True)
    for file in (folder / narrow.folder).iterdir():
        (tmp_path / narrow.folder / file.name).write_bytes(file.read_bytes())
    runtime = ort_training.OrtTrainingRuntime.open(tmp_path, manifest, 1)
    assert runtime.train(first_neurons(bundle, narrow.widths), [batch], 0.1).examples == 8
    with pytest.raises(TrainingError, match=manifest.rungs[0].folder):
        runtime.train(full, [batch], 0.1)


def test_writes_nothing_into_the_bundle(runtime, bundle, batch):
    folder, manifest, _ = bundle
    for rung in manifest.rungs:
        runtime.train(first_neurons(bundle, rung.widths), [batch], 0.1)
    files = {path for path in folder.rglob("*") if path.is_file()}
    assert {path.relative_to(folder).as_posix() for path in files} == {*manifest.files, "manifest.json"}
    for name, file in manifest.files.items():
        assert sha256((folder / name).read_bytes()).hexdigest() == file.sha256


def test_refuses_a_missing_parameter(runtime, bundle, batch):
    _, _, full = bundle
    last = list(full)[-1]
    with pytest.raises(TrainingError, match=last):
        runtime.train({key: array for key, array in full.items() if key != last}, [batch], 0.1)


@pytest.mark.parametrize("change", [lambda array: array[:-1], lambda array: array[..., None]])
def test_refuses_parameters_that_are_no_sub_model(runtime, bundle, batch, change):
    _, _, full = bundle
    with pytest.raises(TrainingError, match=r"conv1\.bias"):
        runtime.train({**full, "conv1.bias": change(full["conv1.bias"])}, [batch], 0.1)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_refuses_labels_that_onnxruntime_would_read_out_of_bounds_for(runtime, bundle, batch, label):
    labels = batch.y.copy()
    labels[3] = label
    with pytest.raises(TrainingError, match=rf"from 0 to {CLASSES - 1}, got .*{label}"):
        runtime.train(bundle[2], [Examples(batch.x, labels)], 0.1)


def test_writes_nothing_to_the_terminal(runtime, bundle, batch, capfd):
    runtime.train(bundle[2], [batch] * 2, 0.1)
    assert capfd.readouterr() == ("", "")


def test_threads_do_not_change_the_result(bundle, batch):
    folder, manifest, full = bundle
    one, two = (
        ort_training.OrtTrainingRuntime.open(folder, manifest, threads).train(full, [batch] * 3, 0.1)
        for threads in (1, 2)
    )
    for key, array in one.parameters.items():
        np.testing.assert_allclose(two.parameters[key], array, rtol=1e-5, atol=1e-7)

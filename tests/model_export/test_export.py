from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as torch_load_file
from torch import nn

from model_export.errors import ExportError
from model_export.export import compile_model, export_bundle
from model_export.trained_model import predict_model, trained_files
from model_export.training_graphs import train_step
from model_export.zoo.mlp import mlp
from wire_protocol import bundle_manifest as bm
from wire_protocol.errors import InvalidValueError


@pytest.fixture(scope="module")
def module() -> nn.Module:
    torch.manual_seed(1)
    return mlp((2, 3), 4, (8, 5))


@pytest.fixture(scope="module")
def bundle(module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "new" / "bundle"
    export_bundle(module, (2, 3), folder, name="mine")
    return folder


def test_the_manifest_names_every_file_with_its_hash(module: nn.Module, bundle: Path) -> None:
    manifest = bm.decode_manifest((bundle / bm.MANIFEST_NAME).read_bytes())
    files = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    files.pop(bm.MANIFEST_NAME)
    assert set(files) == {bm.TRAIN_STEP, bm.FISHER, bm.EVALUATE, bm.PREDICT, bm.PRIVATE_STEP, bm.WEIGHTS}
    assert manifest.files == {
        name: bm.BundleFile(sha256(content).hexdigest(), len(content)) for name, content in files.items()
    }
    assert (manifest.model, manifest.input_shape, manifest.classes) == ("mine", (2, 3), 4)
    assert manifest.layout == compile_model(module, (2, 3))[1]


def test_the_initial_weights_are_the_modules(module: nn.Module, bundle: Path) -> None:
    weights = load_file(bundle / bm.WEIGHTS)
    assert set(weights) == {name for name, _ in module.named_parameters()}
    for name, values in module.named_parameters():
        assert weights[name].dtype == np.float32
        np.testing.assert_array_equal(weights[name], values.detach().numpy())


def test_the_graphs_on_disk_pass_the_full_checker(bundle: Path) -> None:
    for name in (bm.TRAIN_STEP, bm.FISHER, bm.EVALUATE, bm.PREDICT):
        onnx.checker.check_model(onnx.load_model(bundle / name), full_check=True)


def test_the_same_model_gives_the_same_bundle(module: nn.Module, bundle: Path, tmp_path: Path) -> None:
    export_bundle(module, (2, 3), tmp_path / "again", name="mine")
    assert (tmp_path / "again" / bm.MANIFEST_NAME).read_bytes() == (bundle / bm.MANIFEST_NAME).read_bytes()


def test_trained_files_hold_the_trained_parameters(module: nn.Module, bundle: Path, tmp_path: Path) -> None:
    other = mlp((2, 3), 4, (8, 5))
    parameters = {name: values.detach().numpy() for name, values in other.named_parameters()}
    batch = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    found = onnxruntime.InferenceSession(predict_model(bundle, parameters)).run(["output"], {"batch": batch})[0]
    np.testing.assert_allclose(found, other(torch.from_numpy(batch)).detach().numpy(), atol=1e-6)
    files = trained_files(bundle, parameters)
    assert files["predict.onnx"] == predict_model(bundle, parameters)
    (tmp_path / "weights").write_bytes(files["model.safetensors"])
    other.load_state_dict(torch_load_file(tmp_path / "weights"))
    initial = onnxruntime.InferenceSession(str(bundle / bm.PREDICT)).run(["output"], {"batch": batch})[0]
    np.testing.assert_allclose(initial, module(torch.from_numpy(batch)).detach().numpy(), atol=1e-6)


def test_a_failure_leaves_the_older_bundle(module: nn.Module, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(bundle, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InvalidValueError, match="keep must be above 0 and at most 1"):
        export_bundle(module, (2, 3), out, name="mine", rungs=(2.0,))
    with pytest.raises(ExportError, match="If at /0/If: no gradient rule"):
        export_bundle(
            nn.Sequential(nn.LocalResponseNorm(2), nn.Flatten(), nn.Linear(9, 3)), (1, 3, 3), out, name="mine"
        )
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]


def test_a_failure_leaves_no_folder(module: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError):
        export_bundle(module, (2, 3), tmp_path / "out", name="mine", rungs=(0.0,))
    assert list(tmp_path.iterdir()) == []


def test_an_older_bundle_is_replaced_whole(module: nn.Module, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(bundle, out)
    export_bundle(nn.Linear(3, 2), (3,), out, name="other")
    manifest = bm.decode_manifest((out / bm.MANIFEST_NAME).read_bytes())
    assert manifest.model == "other"
    assert manifest.layout.groups == ()
    assert {path.name for path in out.iterdir()} == {bm.MANIFEST_NAME, *manifest.files}


@pytest.mark.parametrize("foreign", ["notes.txt", ".git/config", "manifest.json"])
def test_a_folder_with_other_files_is_left_alone(module: nn.Module, tmp_path: Path, foreign: str) -> None:
    path = tmp_path / "out" / foreign
    path.parent.mkdir(parents=True)
    path.write_text('{"name": "a web page\'s manifest"}')
    with pytest.raises(ExportError, match="must be a new or empty folder or an older bundle"):
        export_bundle(module, (2, 3), tmp_path / "out", name="mine")
    assert path.exists()


def test_a_users_file_in_an_older_bundle_is_not_lost(module: nn.Module, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    shutil.copytree(bundle, out)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match=r"which also holds thesis\.tex"):
        export_bundle(module, (2, 3), out, name="mine")
    assert (out / "thesis.tex").exists()


def test_an_empty_folder_is_taken_and_a_file_is_not(module: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export_bundle(module, (2, 3), tmp_path / "empty", name="mine")
    assert (tmp_path / "empty" / bm.MANIFEST_NAME).exists()
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ExportError, match="out"):
            export_bundle(module, (2, 3), out, name="mine")


def test_compiling_twice_gives_the_same_graph(module: nn.Module) -> None:
    first, second = (train_step(*compile_model(module, (2, 3))) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)

"""The check that `fisherfleet export --check` makes, and that it finds what is wrong."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from model_export.__main__ import DISAGREES, main
from model_export.export import compile_model, export_bundle
from model_export.losses import CROSS_ENTROPY, BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError
from model_export.module_rewrites.trainable_form import trainable_form
from model_export.ort_artifacts import is_available
from model_export.parity import COLUMNS, Subject, check_parity
from model_export.parity_table import print_parity
from model_export.zoo import ZOO
from wire_protocol.bundle_manifest import MANIFEST_NAME, TRAINING_MODEL, decode_manifest

needs_training = pytest.mark.skipif(not is_available(), reason="needs onnxruntime-training")


def subject_of(module: nn.Module, input_shape: tuple[int, ...], loss: Loss = CROSS_ENTROPY) -> Subject:
    module, _ = trainable_form(module)
    return Subject(module, *compile_model(module, input_shape, loss), loss)


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize(
    ("name", "shape", "loss"),
    [
        ("autoencoder", (640,), MeanSquaredError()),
        ("autoencoder", (2, 6), BinaryCrossEntropy()),
        ("gru", (12, 10), CROSS_ENTROPY),
        ("lstm", (12, 10), CROSS_ENTROPY),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_zoo_models_agree(name: str, shape: tuple[int, ...], loss: Loss, seed: int) -> None:
    torch.manual_seed(seed)
    for row in check_parity(subject_of(ZOO[name](shape, 10), shape, loss), Path(), (), seed):
        assert set(row.errors) == set(COLUMNS)
        assert row.agrees, row


@needs_training
@pytest.mark.parametrize(
    "loss", [CrossEntropy((1.0, 0.5, 3.0)), MeanSquaredError(), BinaryCrossEntropy()], ids=lambda loss: loss.name
)
def test_rungs_are_compared_too(loss: Loss, tmp_path: Path) -> None:
    module = two_layers()
    manifest = export_bundle(module, (4,), tmp_path / "bundle", name="two", rungs=(1.0, 0.5), loss=loss)
    rows = check_parity(subject_of(module, (4,), loss), tmp_path / "bundle", manifest.rungs)
    assert [(row.runtime, row.sub_model) for row in rows] == [
        ("portable", "all neurons"),
        ("portable", "a random half"),
        ("ort-training", "ort/0"),
        ("ort-training", "ort/1"),
    ]
    for row in rows:
        assert row.agrees, row
    assert set(rows[2].errors) == {"loss", "gradients"}


@needs_training
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_rungs_of_recurrent_models_run(name: str, tmp_path: Path) -> None:
    module = ZOO[name]((3, 4), 3)
    manifest = export_bundle(module, (3, 4), tmp_path / "bundle", name=name, rungs=(0.5,))
    *_, row = check_parity(subject_of(module, (3, 4)), tmp_path / "bundle", manifest.rungs)
    assert row.runtime == "ort-training"
    assert row.errors
    assert row.agrees, row


@needs_training
def test_a_rung_that_does_not_load_disagrees(tmp_path: Path) -> None:
    module = two_layers()
    manifest = export_bundle(module, (4,), tmp_path / "bundle", name="two", rungs=(0.5,))
    (tmp_path / "bundle" / manifest.rungs[0].folder / TRAINING_MODEL).write_bytes(b"nothing")
    *_, row = check_parity(subject_of(module, (4,)), tmp_path / "bundle", manifest.rungs)
    assert not row.agrees
    assert row.unanswered.startswith("the runtime cannot run its graphs: ")


class Bent(nn.Module):
    """`inner`, but for a small error in what it computes."""

    def __init__(self, inner: nn.Module, by: float) -> None:
        super().__init__()
        self.inner = inner
        self.by = by

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.inner(inputs * (1 + self.by))
        return result


def test_a_model_that_torch_computes_otherwise_disagrees() -> None:
    subject = subject_of(Bent(two_layers(), 0.0), (4,))
    wrong = replace(subject, module=Bent(subject.module.inner, 1e-2))  # type: ignore[arg-type]
    for row in check_parity(wrong, Path(), ()):
        assert not row.agrees
        assert max(row.errors.values()) > 1e-3


def test_numbers_that_are_no_numbers_disagree() -> None:
    subject = subject_of(two_layers(), (4,))
    broken = {name: array * np.float32(np.nan) for name, array in subject.graph.parameters.items()}
    rows = check_parity(replace(subject, graph=replace(subject.graph, parameters=broken)), Path(), ())
    assert not any(row.agrees for row in rows)


class OnlyWhole(nn.Module):
    """Two layers whose code refuses to be anything but whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.first(inputs))
        if hidden.shape[1] != 6:
            raise ValueError("expected 6 hidden units")
        result: Tensor = self.second(hidden)
        return result


def test_what_torch_cannot_answer_is_said() -> None:
    full, half = check_parity(subject_of(OnlyWhole(), (4,)), Path(), ())
    assert full.agrees
    assert full.errors
    assert half.unanswered == "torch cannot run the module with these parameters: expected 6 hidden units"
    assert not half.errors
    shown = StringIO()
    print_parity([full, half], Console(file=shown, width=200))
    assert "portable, a random half: not compared, torch cannot run" in shown.getvalue()


def test_a_model_without_neuron_groups() -> None:
    (row,) = check_parity(subject_of(nn.Linear(4, 3), (4,)), Path(), ())
    assert row.agrees
    assert "gradients" in row.errors


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "bundle")]
    assert main(["autoencoder", "--input", "6", "--check", *out]) == 0
    manifest = decode_manifest((tmp_path / "bundle" / MANIFEST_NAME).read_bytes())
    assert (manifest.loss, manifest.classes, manifest.output_shape) == ("mse", 0, (6,))
    shown = capsys.readouterr()
    assert "is replaced by GroupNorm" in shown.out
    assert "relative error against torch" in shown.out
    assert shown.out.count("portable") == 2


def test_the_command_fails_where_runtimes_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_export.parity.TOLERANCE", 1e-12)
    assert main(["mlp", "--input", "4", "--check", "--out", str(tmp_path / "bundle")]) == DISAGREES
    assert "gradients" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["mlp", "--input", "4", "--loss", "mse", "--class-weights", "1,2"], "class weights are for the loss"),
        (["mlp", "--input", "4", "--classes", "2", "--class-weights", "1,x"], "--class-weights must be numbers"),
        (["mlp", "--input", "4", "--classes", "2", "--class-weights", "1,2,3"], "one class for each of the class"),
    ],
)
def test_class_weights_that_do_not_fit(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "bundle")]) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

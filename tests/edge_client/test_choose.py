import subprocess
import sys

import pytest
import torch

from edge_client.errors import TrainingError
from edge_client.training.choose import RuntimeSpec, files_for, open_runtime, require_installed
from model_export.export import export_bundle
from wire_protocol.bundle_manifest import FORMAT, BundleFile, BundleManifest, Rung
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter

NAMES = ("train_step.onnx", "fisher.onnx", "ort/0/a.onnx", "ort/0/checkpoint", "ort/01/a.onnx", "ort/1/a.onnx")
LAYOUT = Layout((Parameter("w", (4,), (CutAxis(0, "g"),)),), (NeuronGroup("g", 4),))
MANIFEST = BundleManifest(
    FORMAT, "m", (4,), 2, LAYOUT, {name: BundleFile("0" * 64, 1) for name in NAMES},
    (Rung("ort/0", {"g": 4}), Rung("ort/1", {"g": 2})),
)  # fmt: skip


@pytest.mark.parametrize("name", ["auto", "portable"])
def test_the_portable_runtime_reads_one_graph_at_every_width(name):
    assert files_for(name, MANIFEST, {"g": 3}) == ("train_step.onnx",)


def test_onnxruntime_training_reads_the_folder_of_its_rung():
    assert files_for("ort-training", MANIFEST, {"g": 4}) == ("ort/0/a.onnx", "ort/0/checkpoint")
    assert files_for("ort-training", MANIFEST, {"g": 2}) == ("ort/1/a.onnx",)


def test_a_width_without_a_rung_is_an_error_that_lists_the_rungs():
    with pytest.raises(TrainingError, match=r"widths \{'g': 3\}, only for \[\{'g': 4\}, \{'g': 2\}\]"):
        files_for("ort-training", MANIFEST, {"g": 3})


@pytest.mark.parametrize("name", ["auto", "portable"])
def test_auto_is_portable(tmp_path, name):
    require_installed(name)
    manifest = export_bundle(torch.nn.Linear(4, 3), (4,), tmp_path / "bundle", name="linear")
    assert open_runtime(RuntimeSpec(name, tmp_path / "bundle", manifest)).name == "portable"


def test_a_machine_without_the_training_wheel_is_told_what_to_install():
    script = """
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
hide = lambda name, *rest: None if name.startswith("onnxruntime.training") else find(name, *rest)
importlib.machinery.PathFinder.find_spec = hide
from edge_client.errors import TrainingError
from edge_client.training.choose import require_installed
try:
    require_installed("ort-training")
except TrainingError as error:
    sys.stdout.write(str(error))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "onnxruntime-training-cpu" in done.stdout
    assert 'runtime = "portable"' in done.stdout

"""Each import runs in a process of its own, as what is loaded once stays loaded."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = "sorted({'torch', 'onnx'} & set(sys.modules))"
CAN_TRAIN = find_spec("onnxruntime.training") is not None


def run_python(code, **environment):
    command = [sys.executable, "-W", "error", "-c", f"import sys\n{code}"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "edge_client.training.portable",
        pytest.param(
            "edge_client.training.ort_training",
            marks=pytest.mark.skipif(not CAN_TRAIN, reason="this environment has no onnxruntime-training"),
        ),
    ],
)
def test_a_runtime_loads_neither_torch_nor_onnx(module):
    status, output, errors = run_python(f"import {module}\nprint({HEAVY}, 'onnxruntime' in sys.modules)")
    assert (status, output) == (0, ["[]", "True"]), errors


@pytest.mark.skipif(not CAN_TRAIN, reason="this environment has no onnxruntime-training")
def test_the_whole_package_can_be_imported_afterwards():
    code = """
from edge_client.onnxruntime_import import import_onnxruntime, import_training_api
import_onnxruntime()
api = import_training_api()
from onnxruntime.training import artifacts
import onnxruntime.training.api
print(sys.modules['onnxruntime.training.api'] is api, callable(artifacts.generate_artifacts))
"""
    status, output, errors = run_python(code)
    assert (status, output) == (0, ["True", "True"]), errors


def test_an_onnxruntime_without_training_is_refused(tmp_path):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    code = """
from edge_client.onnxruntime_import import import_onnxruntime, import_training_api
print(import_onnxruntime().__file__)
try:
    import_training_api()
except ImportError as error:
    print(error.name, 'onnxruntime.training' in sys.modules)
"""
    status, output, errors = run_python(code, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    expected = [str(tmp_path / "onnxruntime" / "__init__.py"), "onnxruntime.training", "False"]
    assert (status, output) == (0, expected), errors

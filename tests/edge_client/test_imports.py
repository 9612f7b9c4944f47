"""What a device must never load, proved in a fresh interpreter."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "onnx",
    "fastapi",
    "scipy",
    "sklearn",
    "matplotlib",
    "pandas",
    "sqlalchemy",
    "dp_accounting",
    "server",
    "model_export",
)


def loaded_by(module: str) -> set[str]:
    script = f"import sys, {module}; sys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "edge_client",
        "edge_client.__main__",
        "edge_client.runner",
        "edge_client.fisher",
        "edge_client.privacy.accountant",
        "edge_client.training.portable",
    ],
)
def test_a_device_loads_nothing_heavy(module):
    assert not loaded_by(module) & set(HEAVY)


@pytest.mark.parametrize("module", ["edge_client.__main__", "edge_client.runner", "edge_client.local_update"])
def test_onnxruntime_is_loaded_only_when_training_begins(module):
    assert "onnxruntime" not in loaded_by(module)


def test_what_few_devices_need_is_loaded_by_those_that_do():
    mostly_unneeded = {
        "edge_client.privacy.accountant",
        "edge_client.round_fitting",
        "numpy.ma",
        "numpy.random",
        "tarfile",
    }
    assert not loaded_by("edge_client.runner") & mostly_unneeded


@pytest.mark.parametrize("module", ["edge_client.__main__", "edge_client.doctor.command", "edge_client.config"])
def test_what_says_that_a_package_is_missing_needs_none(module):
    packages = {"numpy", "msgspec", "cryptography", "zstandard", "paho", "aiomqtt", "psutil"}
    assert not loaded_by(module) & packages


def test_the_package_itself_takes_no_time_to_import():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import edge_client"], capture_output=True, text=True, check=True
    )
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "edge_client" in imported
    assert not imported & {*HEAVY, "numpy", "msgspec", "aiomqtt", "onnxruntime"}

"""Is what the device is made of there: Python, its packages, and an onnxruntime that runs a graph here."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from edge_client.config import DeviceConfig
from edge_client.findings import Finding, Level

OLDEST, NEWEST = (3, 10), (3, 13)
MODULES = {
    "numpy": "numpy",
    "msgspec": "msgspec",
    "cryptography": "cryptography.hazmat.bindings._rust",
    "zstandard": "zstandard",
    "paho-mqtt": "paho.mqtt.client",
    "aiomqtt": "aiomqtt",
    "psutil": "psutil",
}
"""Packages that a device is made of, and what of each must load; psutil is what reads its sensors."""
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-training-cpu", "onnxruntime-training")
"""All of them own the module `onnxruntime`."""
RUN_SECONDS = 120.0
_INSTALL = "install what requirements-edge.txt names"

_GRAPH = "CAgSADpAChEKAXgKAXgSAXkiBk1hdE11bBIBZ1oTCgF4Eg4KDAgBEggKAggCCgIIAmITCgF5Eg4KDAgBEggKAggCCgIIAkIECgAQDQ=="
"""A graph in base64: y = x x, both float32 [2, 2], opset 13."""
_RUN = f"""
import base64, numpy
from edge_client.onnxruntime_import import import_onnxruntime
runtime = import_onnxruntime()
session = runtime.InferenceSession(base64.b64decode("{_GRAPH}"), providers=["CPUExecutionProvider"])
(found,) = session.run(None, {{"x": numpy.array([[1, 2], [3, 4]], numpy.float32)}})
assert found.tolist() == [[7, 10], [15, 22]], found.tolist()
print(runtime.__version__, *runtime.get_available_providers())
"""


_RUN_THERE = f"""
import base64, logging, pathlib, sys, tempfile, numpy
from edge_client.onnx_session import open_session, provider_of, run
from edge_client.processors import Processors
logging.basicConfig(format="%(message)s", level=logging.INFO)
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "graph.onnx")
    path.write_bytes(base64.b64decode("{_GRAPH}"))
    graph = open_session(path, Processors(provider=sys.argv[1]))
    run(graph, ["y"], {{"x": numpy.array([[1, 2], [3, 4]], numpy.float32)}})
print(provider_of(graph))
"""


def examine_python() -> list[Finding]:
    """The version of Python and the machine."""
    text = f"Python {platform.python_version()} on {platform.machine()}"
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return [Finding("Python", "good", text)]
    legal = " to ".join(".".join(map(str, one)) for one in (OLDEST, NEWEST))
    return [Finding("Python", "weak", f"{text} was never tried", f"use Python {legal}")]


def examine_packages() -> list[Finding]:
    """Whether each package is there and loads."""
    findings = [finding for finding in map(_package, MODULES) if finding is not None]
    there = ", ".join(f"{package} {version(package)}" for package in MODULES if _is_installed(package))
    return findings or [Finding("packages", "good", there)]


def _package(name: str) -> Finding | None:
    """What is wrong with it."""
    if not _is_installed(name):
        level: Level = "weak" if name == "psutil" else "bad"
        return Finding("packages", level, f"{name} is not installed", _INSTALL)
    try:
        import_module(MODULES[name])
    except Exception as error:
        return Finding("packages", "bad", f"{name} cannot be loaded: {error}", _INSTALL)
    return None


def examine_onnxruntime() -> list[Finding]:
    """Whether it multiplies two matrices, in a process of its own, as it could end this one."""
    installed = [package for package in RUNTIMES if _is_installed(package)]
    if len(installed) > 1:
        text = f"{' and '.join(installed)} are installed, which overwrite each other"
        return [Finding("onnxruntime", "bad", text, "uninstall all of them and install one")]
    done = _run_alone(_RUN)
    if done.returncode == 0:
        release, *providers = done.stdout.split()
        text = f"onnxruntime {release} runs a graph; it has {', '.join(providers)}"
        return [Finding("onnxruntime", "good", text)]
    if done.returncode < 0:
        text = f"onnxruntime ends its process with {signal.Signals(-done.returncode).name}"
        return [Finding("onnxruntime", "bad", text, "this processor or this kernel is none that it was built for")]
    return [Finding("onnxruntime", "bad", f"onnxruntime cannot run a graph: {_last_line(done.stderr)}", _INSTALL)]


def examine_provider(config: DeviceConfig) -> list[Finding]:
    """Whether graphs run on the GPU that the owner asks for, and agree with the processor."""
    if config.provider == "cpu":
        return []
    done = _run_alone(_RUN_THERE, config.provider)
    if done.returncode == 0 and done.stdout.strip() != "cpu":
        return [Finding("provider", "good", f"a graph runs by {config.provider} and agrees with the processor")]
    text = _last_line(done.stderr)
    if config.provider == "auto":
        return [Finding("provider", "good", text)]
    return [Finding("provider", "weak", text, 'see docs/jetson.md; provider = "cpu" in device.toml asks for none')]


def _run_alone(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python code with the modules of this process, in one of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True

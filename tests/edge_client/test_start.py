"""What a device that waits for its first bundle has in its memory: a real process at a real broker."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.edge_client.scripted_server import broker, needs_mosquitto
from tests.edge_client.test_command import write_config

pytestmark = needs_mosquitto


@pytest.fixture(scope="module")
def mapped(tmp_path_factory) -> set[str]:
    """Names of the native libraries in a device that is connected and has nothing to train."""
    folder = tmp_path_factory.mktemp("start")
    np.savez(folder / "d.npz", x=np.zeros((2, 3), np.float32), y=np.zeros(2, int))
    with broker(folder) as port:
        config = write_config(folder, broker=f"mqtt://127.0.0.1:{port}")
        command = [sys.executable, "-m", "edge_client", "--config", str(config)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as device:
            try:
                assert device.stderr is not None
                assert "pi: connected to" in device.stderr.readline()
                lines = Path(f"/proc/{device.pid}/maps").read_text().splitlines()
            finally:
                device.terminate()
                device.stderr.read()
    return {Path(line.split()[-1]).name.partition(".")[0] for line in lines if ".so" in line}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("library", "there"),
    [("_multiarray_umath", True), ("_rust", True), ("onnxruntime_pybind11_state", False)],
)
def test_what_trains_is_loaded_with_the_first_bundle(mapped, library, there):
    assert (library in mapped) is there

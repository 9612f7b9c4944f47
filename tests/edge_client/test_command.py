"""`fisherfleet-edge` as a user starts it."""

import signal
import subprocess
import sys

import numpy as np
import pytest

COMMAND = [sys.executable, "-m", "edge_client"]


def write_config(folder, **changes):
    values = {
        "device": "pi",
        "broker": "mqtt://127.0.0.1:9",
        "server": "http://127.0.0.1:9",
        "data": "d.npz",
        **changes,
    }
    path = folder / "device.toml"
    path.write_text("\n".join(f'{key} = "{value}"' for key, value in values.items()))
    return path


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"runtime": "tpu"}, "runtime must be one of auto, portable, ort-training, got 'tpu'"),
        ({}, "d.npz does not exist"),
    ],
)
def test_what_cannot_start_is_one_line_and_exit_status_2(tmp_path, changes, complaint):
    done = subprocess.run(
        [*COMMAND, "--config", str(write_config(tmp_path, **changes))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("fisherfleet-edge: error: ")
    assert complaint in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(tmp_path, number):
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3)), y=np.zeros(2, int))
    process = subprocess.Popen(
        [*COMMAND, "--config", str(write_config(tmp_path))], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert "pi: no link to mqtt://127.0.0.1:9" in process.stderr.readline()
    process.send_signal(number)
    out, rest = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "pi: stopped" in rest
    assert "Traceback" not in rest
    assert out == ""


def test_help_names_the_option():
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    assert "usage: fisherfleet-edge" in done.stdout
    assert "--config" in done.stdout

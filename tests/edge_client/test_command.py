"""`fisherfleet-edge` as a user starts it."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from edge_client.__main__ import COMMANDS
from tests.fleet_keys import write_identity

COMMAND = [sys.executable, "-m", "edge_client"]


def write_config(folder, **changes):
    write_identity(folder, "pi")
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


def test_a_key_that_others_can_read_is_refused_with_the_command_that_mends_it(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3)), y=np.zeros(2, int))
    config = write_config(tmp_path)
    key = tmp_path / "identity" / "device.key"
    key.chmod(0o640)
    done = subprocess.run([*COMMAND, "--config", str(config)], capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"chmod 600 {key}" in done.stderr


def test_a_second_process_with_the_same_state_is_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3)), y=np.zeros(2, int))
    config = write_config(tmp_path)
    with subprocess.Popen([*COMMAND, "--config", str(config)], stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        first.stderr.readline()
        second = subprocess.run([*COMMAND, "--config", str(config)], capture_output=True, text=True, check=False)
        first.kill()
    assert second.returncode == 2
    assert "state" in second.stderr
    assert "is in use by another device process" in second.stderr


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


def test_help_lists_every_command():
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    assert [name for name in COMMANDS if f"\n  {name} " not in done.stdout] == []


def test_logs_without_systemd_says_where_they_are(tmp_path):
    done = subprocess.run(
        [*COMMAND, "logs"], env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "standard error" in done.stderr


def test_logs_are_the_journal_of_the_unit(tmp_path):
    journal = tmp_path / "journalctl"
    journal.write_text('#!/bin/sh\necho "$@"\n')
    journal.chmod(0o755)
    code = f"import edge_client.logs_command as logs, pathlib; logs._SYSTEMD = pathlib.Path('{tmp_path}'); "
    code += "logs.main(['-f', '-n', '7'], 'logs')"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "--unit fisherfleet-edge.service --lines 7 --follow\n"

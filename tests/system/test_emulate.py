"""`fisherfleet emulate` as a user runs it: a real broker, real data, the devices in a process of their own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
from safetensors.numpy import load_file

from devices.command_line import main
from devices.emulation.datasets import load_dataset
from devices.emulation.emulate import prepare
from devices.emulation.settings import EmulationSettings
from server.privacy.run_words import NOT_PRIVATE
from wire_protocol.bundle_manifest import WEIGHTS

COMMAND = [sys.executable, "-m", "devices.command_line", "emulate"]
ORT_TRAINING = ["--runtime", "ort-training", "--clip-gradient", "0", "--hidden-gain", "1"]
KEYS = {
    "config": {"devices", "rounds", "keep", "resync_every", "seed", "dataset", "model", "privacy"},
    "rounds": {"round", "accuracy", "loss", "updates_accepted", "bytes_up", "bytes_down", "resync"},
    "devices": {"id", "kept", "examples"},
    "final": {"accuracy", "loss"},
    "totals": {
        "bytes_up",
        "bytes_down",
        "bytes_up_dense",
        "bytes_down_dense",
        "compute_fraction",
        "updates_accepted",
        "updates_rejected",
        "seconds",
    },
}


def emulate(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "default"
    done = emulate("--out", out)
    assert done.returncode == 0, done.stderr
    for name in ("report.html", "report.json", "predict.onnx", "model.safetensors"):
        assert str(out / name) in done.stdout
        assert (out / name).stat().st_size > 0
    return out


def report_of(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def test_default_run_reaches_94_percent_on_held_out_digits(default_run: Path) -> None:
    report = report_of(default_run)
    assert report["final"]["accuracy"] >= 0.94
    assert len(report["rounds"]) == report["config"]["rounds"]
    assert report["totals"]["updates_accepted"] == report["config"]["rounds"] * report["config"]["devices"]


def test_report_has_the_stable_keys(default_run: Path) -> None:
    report = report_of(default_run)
    assert set(KEYS) <= set(report)
    for section in ("config", "final", "totals"):
        assert KEYS[section] <= set(report[section])
    for section in ("rounds", "devices"):
        assert all(KEYS[section] <= set(entry) for entry in report[section])
    assert report["config"]["privacy"] == NOT_PRIVATE


def test_bytes_and_compute_are_those_of_the_sub_models(default_run: Path) -> None:
    report = report_of(default_run)
    rounds, totals = report["rounds"], report["totals"]
    assert totals["bytes_up"] == sum(entry["bytes_up"] for entry in rounds)
    assert totals["bytes_down"] == sum(entry["bytes_down"] for entry in rounds)
    dense = sum(array.size * 4 for array in load_file(default_run / "model.safetensors").values())
    assert totals["bytes_up_dense"] == dense * totals["updates_accepted"]
    assert totals["bytes_up"] * 30 < totals["bytes_up_dense"]
    # two hidden layers at half width: 64 x 128 + 128 x 64 + 64 x 10 of 64 x 256 + 256 x 128 + 128 x 10
    assert totals["compute_fraction"] == pytest.approx((64 * 128 + 128 * 64 + 64 * 10) / (64 * 256 + 256 * 128 + 1280))
    resyncs = [entry["round"] for entry in rounds if entry["resync"]]
    # the first round's scores make the fleet's ranking, by which neurons are chosen from the second on
    assert resyncs == [1, *range(2, len(rounds) + 1, report["config"]["resync_every"])]
    # the first model goes down whole, later ones as differences, and slices in between
    assert max(entry["bytes_down"] for entry in rounds[1:]) < rounds[0]["bytes_down"]


def test_devices_keep_what_was_asked(default_run: Path) -> None:
    report = report_of(default_run)
    assert [device["kept"] for device in report["devices"]] == [{"hidden1": 128, "hidden2": 64}] * 8
    assert sum(device["examples"] for device in report["devices"]) == len(load_dataset("digits", None, 0).train)


def test_predict_is_the_trained_model(default_run: Path) -> None:
    test = load_dataset("digits", None, 0).test
    session = onnxruntime.InferenceSession(default_run / "predict.onnx")
    (logits,) = session.run(None, {"batch": test.x})
    assert np.mean(logits.argmax(1) == test.y) == pytest.approx(report_of(default_run)["final"]["accuracy"])


def test_same_seed_same_split_and_weights(default_run: Path, tmp_path: Path) -> None:
    again = prepare(EmulationSettings(tmp_path / "again"))
    other = prepare(EmulationSettings(tmp_path / "other", seed=1))
    first = [device["examples"] for device in report_of(default_run)["devices"]]
    assert [len(share) for share in again.shares] == first
    assert [len(share) for share in other.shares] != first
    weights = (default_run / "bundle" / WEIGHTS).read_bytes()
    assert (again.bundle / WEIGHTS).read_bytes() == weights
    assert (other.bundle / WEIGHTS).read_bytes() != weights


def test_a_buffered_run_learns_too(tmp_path: Path) -> None:
    done = emulate("--mode", "buffered", "--buffer-goal", 4, "--rounds", 40, "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["config"]["buffer_goal"] == 4
    assert [entry["round"] for entry in report["rounds"]] == list(range(1, 41))
    assert all(entry["updates_accepted"] >= max(4, entry["updates_late"]) for entry in report["rounds"])
    assert report["final"]["accuracy"] > 0.9


def test_onnxruntime_training_trains_the_fleet_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime.training.api")
    done = emulate(*ORT_TRAINING, "--devices", 3, "--rounds", 6, "--out", tmp_path / "run", "--json")
    report = json.loads(done.stdout)
    assert report["totals"]["updates_accepted"] == 18
    assert report["final"]["accuracy"] > 0.75


def test_users_own_data_model_and_natural_split(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = generator.normal(size=(300, 5)) + 3 * np.eye(3, 5)[y]
    np.savez(tmp_path / "own.npz", x=x, y=y, device=np.repeat(["kitchen", "hall"], [100, 200]))
    (tmp_path / "own_model.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))\n"
    )
    out = tmp_path / "run"
    done = subprocess.run(
        [
            *COMMAND,
            "--dataset",
            "npz",
            "--data",
            "own.npz",
            "--model",
            "own_model:build",
            "--rounds",
            "5",
            "--out",
            out,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = report_of(out)
    assert sorted(device["examples"] for device in report["devices"]) == [80, 160]
    assert report["config"]["devices"] == 2
    assert report["final"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--devices", "0"], "devices must be 1 to"),
        (["--rounds", "0"], "rounds must be"),
        (["--keep", "1.5"], "keep must be above 0 and at most 1, got 1.5"),
        (["--keep", "nan"], "keep must be above 0 and at most 1, got nan"),
        (["--resync-every", "0"], "resync_every must be"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--learning-rate", "-1"], "learning_rate must be"),
        (["--alpha", "0"], "alpha must be"),
        (["--momentum", "1"], "momentum must be at least 0 and below 1, got 1.0"),
        (["--clip-gradient", "-1"], "clip_gradient must be at least 0 and finite, got -1.0"),
        (["--runtime", "ort-training"], "training must be plain SGD with runtime ort-training: --optimizer sgd"),
        (["--devices", "400"], "too few for 400 devices"),
        (["--model", "nothing"], "model must be one of"),
        (["--model", "nowhere:build"], "cannot be imported"),
        (["--dataset", "npz"], "data must be"),
        (["--dataset", "npz", "--data", "missing.npz"], "missing.npz does not exist"),
        (["--dataset", "fashion-mnist", "--data", "missing-folder"], "missing-folder"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["emulate", *arguments, "--out", str(tmp_path / "run")]) == 2
    complaints = capsys.readouterr().err
    assert expected in complaints
    assert complaints.count("\n") == 1
    assert not (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_saves_what_was_trained_and_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [*COMMAND, "--rounds", "100000", "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round 3/"):
            break
    children = psutil.Process(process.pid).children(recursive=True)
    ports = [c.laddr.port for p in children for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    assert len(children) == 2
    assert ports
    process.send_signal(number)
    printed, complaints = process.communicate(timeout=60)
    assert process.returncode == 130, complaints
    assert "stopped after" in printed
    report = report_of(out)
    assert len(report["rounds"]) >= 3
    assert report["final"]["accuracy"] is not None
    assert (out / "predict.onnx").exists()
    assert psutil.wait_procs(children, timeout=5)[1] == []
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


def test_a_dead_devices_process_ends_the_run_with_a_clear_error(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--rounds", "100000", "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("round 1/"))
    (fleet,) = [p for p in psutil.Process(process.pid).children() if "devices.emulation.fleet" in p.cmdline()]
    fleet.kill()
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the devices' process ended with status -9" in complaints


def test_killed_emulation_leaves_no_process_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--rounds", "100000", "--out", str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("round 1/"))
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    process.kill()
    process.communicate(timeout=10)
    deadline = time.monotonic() + 20
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--learning-rate", "1e30"], "training failed on the device"),
        (["--learning-rate", "1e30", *ORT_TRAINING], "training failed on the device"),
    ],
)
def test_a_run_in_which_no_device_can_train_ends_at_once_with_the_reason(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    done = emulate(*arguments, "--devices", 3, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "round 1: no device has an update" in done.stderr
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_without_hidden_neurons_trains_whole(tmp_path: Path) -> None:
    (tmp_path / "own_linear.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    done = subprocess.run(
        [*COMMAND, "--model", "own_linear:build", "--rounds", "3", "--out", tmp_path / "run"],
        env={**os.environ, "PYTHONPATH": f"{Path.cwd()}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert report_of(tmp_path / "run")["totals"]["compute_fraction"] == 1.0


@pytest.mark.parametrize("arguments", [["--json", "/proc/nowhere.json"], ["--json", "."], ["--out", ""]])
def test_unwritable_places_are_refused_before_the_training(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["emulate", *arguments])
    assert f"argument {arguments[0]}: must be" in capsys.readouterr().err


def test_ctrl_c_while_starting_is_quiet(tmp_path: Path) -> None:
    process = subprocess.Popen([*COMMAND, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True)
    child = psutil.Process(process.pid)
    while not any("libtorch" in mapped.path for mapped in child.memory_maps()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in complaints

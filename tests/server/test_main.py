import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from server.__main__ import main
from server.records import RunRecord
from server.storage import Store
from tests.patience import PATIENCE


@pytest.fixture
def options(bundle_folder: Path, broker: Any, fleet: Any, tmp_path: Path) -> list[str]:
    return [
        f"--fleet={fleet.folder}",
        f"--bundle={bundle_folder}",
        f"--broker=mqtt://127.0.0.1:{broker.port}",
        f"--state={tmp_path / 'state'}",
        "--port=0",
        "--privacy=none",
        "--rounds=1",
        "--keep=1",
        "--precision=float16",
    ]


@asynccontextmanager
async def command(options: Sequence[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def serving(process: asyncio.subprocess.Process) -> str:
    """Wait for the line that names the address, and return it."""
    assert process.stderr is not None
    async for line in process.stderr:
        if b"serving bundle" in line:
            return line.decode()
    pytest.fail("the service did not start")


async def test_a_run_ends_with_a_model_in_the_state_folder(
    options: list[str], tmp_path: Path, weights: dict, connected: Callable, keeping: Callable
) -> None:
    np.savez(tmp_path / "test.npz", x=np.eye(3, dtype=np.float32), y=np.array([0, 1, 0]))
    async with command([*options, f"--test={tmp_path / 'test.npz'}"]) as process, connected("a") as device:
        await serving(process)
        plan = await device.next_plan(1)
        assert (await device.send(plan, device.update(plan, keeping(0, 1, 2, 3), 0.5))).accepted
        out, log = await process.communicate()
    assert process.returncode == 0, log
    state = tmp_path / "state"
    assert f"{state / 'predict.onnx'} and {state / 'model.safetensors'}" in out.decode()
    assert "round 1 (resync): heard 1 device(s), refused 0, accuracy" in log.decode()
    trained = load_file(state / "model.safetensors")
    for name, array in weights.items():
        np.testing.assert_array_equal(trained[name], array + np.float32(0.5))
    session = onnxruntime.InferenceSession(str(state / "predict.onnx"), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"batch": np.ones((1, 3), np.float32)})
    hidden = np.maximum(np.ones((1, 3)) @ trained["w1"].T + trained["b1"], 0)
    np.testing.assert_allclose(output, hidden @ trained["w2"].T + trained["b2"], rtol=1e-6)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_stops_it_cleanly(options: list[str], number: int, status: int) -> None:
    async with command(options) as process:
        await serving(process)
        process.send_signal(number)
        _, log = await process.communicate()
    assert process.returncode == status
    assert b"Traceback" not in log


async def test_without_a_bundle_it_serves_the_runs_it_has_until_a_signal(options: list[str], tmp_path: Path) -> None:
    async with command([*options, "--run=mine"]) as process:
        await serving(process)
        process.terminate()
        await process.communicate()
    of_the_service = [one for one in options if one.split("=")[0] in ("--fleet", "--broker", "--state", "--port")]
    async with command([*of_the_service, "--keep-models=4", "--log-format=json"]) as process:
        assert process.stderr is not None
        line = await anext(line async for line in process.stderr if b"serving" in line)
        process.terminate()
        await process.communicate()
    assert b"serving mine at http://127.0.0.1:" in line
    assert process.returncode == 143


@pytest.mark.parametrize(
    ("option", "text"), [("--rounds=3", "rounds"), ("--privacy=none", "privacy"), ("--run=a", "run")]
)
def test_what_is_of_a_run_is_refused_without_a_bundle(
    fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, text: str
) -> None:
    assert main([f"--fleet={fleet.folder}", f"--state={tmp_path}", option]) == 2
    assert f"{text} must be left out without --bundle" in capsys.readouterr().err


async def test_the_run_left_unfinished_is_gone_on_with(options: list[str], bundle_folder: Path, tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        async with command(options) as process:
            names.append((await serving(process)).split("run ")[1].split(":")[0])
            process.terminate()
            await process.communicate()
    assert names[0] == names[1]
    store = Store(tmp_path / "state")
    assert [record.run for record in store.runs()] == [names[0]]
    store.close()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--bundle=nowhere", "bundle nowhere has no readable manifest.json"),
        ("--broker=http://host", "broker must be mqtt://"),
        ("--keep=0", "keep must be above 0 and at most 1, got 0.0"),
        ("--trim=0.2", "trim must be left out, as aggregation is mean and not trimmed-mean, got 0.2"),
        ("--norm-bound=0", "norm_bound must be above 0 and finite, got 0.0"),
        ("--server-learning-rate=-1", "server_learning_rate must be above 0 and finite, got -1.0"),
        ("--server-momentum=0.5", "server_momentum must be left out, as server_optimizer is fedavg"),
        ("--rounds=0", "rounds must be an integer of at least 1, got 0"),
        ("--port=70000", "port must be 0 to 65535, got 70000"),
        ("--run=a/b", "run must be 1 to 64 letters"),
        ("--test=nowhere.npz", "nowhere.npz does not exist"),
        ("--ca-file=nowhere.pem", "ca_file nowhere.pem cannot be used"),
        ("--fleet=nowhere", "there is no fleet in nowhere: make one with `fisherfleet fleet init nowhere`"),
        ("--quorum=0", "quorum must be an integer of at least 1, got 0"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    bundle_folder: Path, fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, text: str
) -> None:
    argv = [f"--bundle={bundle_folder}", f"--fleet={fleet.folder}", f"--state={tmp_path / 'state'}"]
    argv += ["--broker=mqtts://host", "--run=run", "--privacy=none", option]
    assert main(argv) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("fisherfleet serve: ")
    assert text in errors
    assert errors.count("\n") == 1


def test_a_run_of_another_bundle_is_a_mistake(
    bundle_folder: Path, fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    store.begin_run(RunRecord("run", "0" * 64, 1.0, {}))
    store.close()
    folders = [f"--bundle={bundle_folder}", f"--fleet={fleet.folder}", f"--state={tmp_path}"]
    assert main([*folders, "--run=run", "--privacy=none"]) == 2
    assert "was started with bundle" in capsys.readouterr().err


def test_importing_the_server_loads_no_torch() -> None:
    program = "import server.__main__, sys; assert not {'torch', 'edge_client', 'devices'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(os.environ), timeout=PATIENCE)

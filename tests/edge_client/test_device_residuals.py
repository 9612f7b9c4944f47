"""A whole device's residual among late receipts and trainings that are held; a real broker."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from msgspec.structs import replace

from edge_client.device_work import DeviceWork
from edge_client.durable_files import read_checked
from edge_client.residual_store import ResidualStore
from edge_client.training.choose import RuntimeSpec, open_runtime
from edge_client.training.runtime import TrainingResult
from tests.edge_client.scripted_server import (
    PATIENCE,
    RUN,
    Scene,
    broker,
    device_config,
    make_scene,
    needs_mosquitto,
    running,
    scripted_server,
    web_server,
)
from wire_protocol.layout import Layout, Parameter
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import Arrays, sub_shapes
from wire_protocol.tensor_codec import Codec, decode

pytestmark = needs_mosquitto


class Gate:
    """The portable runtime, whose trainings wait to be let `go` before their first step; `begun` says that one does."""

    name = "portable"

    def __init__(self) -> None:
        self.begun, self.go = Event(), Event()
        self.go.set()

    def open(self, spec: RuntimeSpec) -> "Gate":
        self._inner = open_runtime(spec)
        return self

    def train(self, *arguments: object) -> TrainingResult:
        self.begun.set()
        assert self.go.wait(PATIENCE)
        return self._inner.train(*arguments)

    def hold(self) -> None:
        """Hold the next training."""
        self.begun.clear()
        self.go.clear()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return make_scene(tmp_path, hidden=(32, 16))


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.go.set()


def resync(scene: Scene, number: int) -> RoundPlan:
    return replace(scene.plan(number, scene.model, "int4"), resync_round=number, top_k=0.1)


def residual_in(path: Path, scene: Scene) -> Arrays:
    shapes = sub_shapes(scene.layout, scene.layout.group_sizes)
    found = decode(read_checked(path, 10**6), shapes, Codec("float16"))
    assert any(array.any() for array in found.values())
    return found


async def until(true: Callable[[], object]) -> None:
    async def poll() -> None:
        while not true():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), PATIENCE)


async def test_a_residual_that_comes_back_while_the_next_update_is_made_is_not_carried_off(
    tmp_path: Path, scene: Scene, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Update 2 took the residual of update 1 along, is refused during training 3, and update 3 is counted."""
    folder = tmp_path / "state" / "residuals"
    settled, took, left = (folder / f"{RUN}.{kind}" for kind in ("residual", "2.took", "3.left"))
    with broker(tmp_path) as port, web_server(scene.pages) as (url, _):
        async with scripted_server(port) as server, running(device_config(tmp_path, port, url), gate.open):
            await server.publish_plan(resync(scene, 1))
            _, digest = await server.update(1)
            await server.send_receipt(1, digest)
            await until(settled.exists)
            await server.publish_plan(resync(scene, 2))
            _, digest = await server.update(2)
            first = residual_in(took, scene)
            gate.hold()
            await server.publish_plan(resync(scene, 3))
            await until(gate.begun.is_set)
            await server.send_receipt(2, digest, accepted=False)
            await until(lambda: "round 2: not counted" in caplog.text)
            gate.go.set()
            _, digest = await server.update(3)
            third = residual_in(left, scene)
            await server.send_receipt(3, digest)
            await until(lambda: not left.exists() and settled.exists())
    for name, array in residual_in(settled, scene).items():
        np.testing.assert_allclose(array, first[name] + third[name], rtol=1e-3, atol=1e-7, err_msg=name)


def test_a_late_receipt_of_another_bundle_leaves_that_runs_residual_alone(tmp_path: Path, scene: Scene) -> None:
    """Two updates of a run before are counted while this one's bundle is open."""
    config = device_config(tmp_path, 1, "http://127.0.0.1:1")
    shutil.copytree(scene.bundle_dir, config.state / "bundles" / scene.bundle)
    work = DeviceWork(config, scene.examples, open_runtime)
    work.recall(scene.bundle)
    assert work.group_sizes
    other, ours = Layout((Parameter("w", (2, 3)),)), {"w": np.ones((2, 3), np.float32)}
    residuals = ResidualStore(config.state / "residuals")
    for number in (1, 2):
        residuals.propose("before", number, ours)
    for number in (1, 2):
        work.answered("before", number, True, "f" * 64)
    np.testing.assert_array_equal(residuals.load("before", other)["w"], ours["w"])

"""A whole device's residual among late receipts, and rounds given up; a real broker."""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge_client.device_work import DeviceWork
from edge_client.durable_files import read_checked
from edge_client.residual_store import ResidualStore
from edge_client.training.choose import RuntimeSpec, open_runtime
from edge_client.training.runtime import TrainingResult
from tests.edge_client.scripted_server import (
    DEVICE,
    PATIENCE,
    RUN,
    Scene,
    device_config,
    make_scene,
    needs_mosquitto,
    running,
    surroundings,
)
from wire_protocol.layout import Layout, Parameter
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import Arrays, sub_shapes
from wire_protocol.tensor_codec import Codec, decode

pytestmark = needs_mosquitto


class Gate:
    """The portable runtime, whose trainings wait to be let `go` before their first step; `begun` says that one does."""

    name, privacy = "portable", None

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


def sampled(scene: Scene) -> list[RoundPlan]:
    return [replace(resync(scene, number), participation=0.4) for number in range(3, 40)]


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
    async with surroundings(scene, tmp_path) as (server, config, _), running(config, gate.open):
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


async def test_a_round_given_up_for_one_that_does_not_draw_the_device_is_trained_no_further(
    tmp_path: Path, scene: Scene, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """And what it would have taken along is there for the next."""
    caplog.set_level(logging.INFO)
    folder = tmp_path / "state" / "residuals"
    settled = folder / f"{RUN}.residual"
    plans = sampled(scene)
    silent = next(plan for plan in plans if not plan.draws(DEVICE))
    later = next(plan for plan in plans if plan.draws(DEVICE) and plan.round > silent.round)
    async with surroundings(scene, tmp_path) as (server, config, _), running(config, gate.open):
        await server.publish_plan(resync(scene, 1))
        _, digest = await server.update(1)
        await server.send_receipt(1, digest)
        await until(settled.exists)
        first = settled.read_bytes()
        gate.hold()
        await server.publish_plan(resync(scene, 2))
        await until(gate.begun.is_set)
        await server.publish_plan(silent)
        await until(lambda: "round 2: given up" in caplog.text)
        gate.go.set()
        await until(lambda: "the training was stopped" in caplog.text)
        assert [path.name for path in folder.iterdir()] == [settled.name]
        await server.publish_plan(later)
        await server.update(later.round)
        assert (folder / f"{RUN}.{later.round}.took").read_bytes() == first


@pytest.mark.parametrize("overtaken", ["while it is stored", "while it waits for room"])
async def test_an_update_given_up_for_want_of_room_gives_its_residual_back(
    tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, overtaken: str
) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / "state" / "residuals"
    settled, full, fail, real = folder / f"{RUN}.residual", Event(), Event(), Path.open

    def open_or_fail(path: Path, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        if full.is_set() and "w" in mode and "outbox" in str(path):
            assert fail.wait(PATIENCE)
            raise OSError(28, os.strerror(28), str(path))
        return real(path, mode, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", open_or_fail)
    async with surroundings(scene, tmp_path) as (server, config, _), running(config):
        await server.publish_plan(resync(scene, 1))
        _, digest = await server.update(1)
        await server.send_receipt(1, digest)
        await until(settled.exists)
        first = settled.read_bytes()
        full.set()
        await server.publish_plan(resync(scene, 2))
        await until((folder / f"{RUN}.2.left").exists)
        assert (folder / f"{RUN}.2.took").read_bytes() == first
        if overtaken == "while it waits for room":
            fail.set()
            await until(lambda: "round 2: not sent yet" in caplog.text)
        await server.publish_plan(next(plan for plan in sampled(scene) if not plan.draws(DEVICE)))
        await until(lambda: "this device is not drawn" in caplog.text)
        fail.set()
        await until(settled.exists)
        await until(lambda: [path.name for path in folder.iterdir()] == [settled.name])
    assert settled.read_bytes() == first

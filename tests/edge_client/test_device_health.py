"""Devices that grow hot, cool down or are stopped in the middle of a training; a real broker, sensors of the test."""

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from threading import Event

import pytest
from msgspec.structs import replace as changed

from edge_client import machine_watch, reporter
from edge_client.calibration import LEARNING_RATE
from edge_client.limits import Limits
from edge_client.machine_sensors import Sensors
from edge_client.runner import run_device
from edge_client.service_manager import ServiceManager
from edge_client.training import step_pacer
from edge_client.training.choose import open_runtime
from tests.edge_client.scripted_server import (
    PATIENCE,
    RUN,
    make_scene,
    needs_mosquitto,
    scripted_server,
    surroundings,
)
from wire_protocol import messages

pytestmark = needs_mosquitto
LIMITS = Limits(max_temperature=80)
PAUSED = "the device is too hot"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for module, seconds in ((step_pacer, 0.02), (reporter, 0.02), (machine_watch, 0.0)):
        monkeypatch.setattr(module, "LOOK_SECONDS", seconds)


class Stove:
    """A machine that its first step makes hot; the second does not begin before `goes_on` is set."""

    name, privacy = "stove", None

    def __init__(self) -> None:
        self.hot, self.goes_on, self.began = Event(), Event(), Event()
        self.goes_on.set()
        self.steps = 0
        self.sensors = Sensors(
            temperature=lambda: 90.0 if self.hot.is_set() else 40.0,
            throttled=self.hot.is_set,
        )

    def open(self, spec):
        self._inner = open_runtime(spec)
        return self

    def train(self, parameters, batches, learning_rate, rule):
        measured = learning_rate == LEARNING_RATE
        return self._inner.train(parameters, batches if measured else self._heated(batches), learning_rate, rule)

    def _heated(self, batches):
        for batch in batches:
            self.steps += 1
            yield batch
            if self.steps == 1:
                self.hot.set()
                self.began.set()
                assert self.goes_on.wait(PATIENCE)


@asynccontextmanager
async def at_work(config, stove, manager=None, limits=None):
    device = asyncio.create_task(
        run_device(replace(config, limits=limits), open_runtime=stove.open, sensors=stove.sensors, manager=manager)
    )
    try:
        yield device
    finally:
        device.cancel()
        await asyncio.gather(device, return_exceptions=True)


async def told(server, wanted):
    async with asyncio.timeout(PATIENCE):
        while not wanted(state := await server.state()):
            pass
    return state


@pytest.fixture
def scene(tmp_path):
    return make_scene(tmp_path, hidden=(16, 16))


async def test_a_training_that_grows_hot_rests_says_so_and_goes_on_when_it_is_cool(tmp_path, scene):
    stove = Stove()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(PATIENCE)
        manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "50000"})
        async with surroundings(scene, tmp_path) as (server, config, _), at_work(config, stove, manager, LIMITS):
            assert (await told(server, lambda state: state.temperature == 40.0)).paused == ""
            await server.publish_plan(scene.plan(1, scene.model, "float32"))
            resting = await told(server, lambda state: state.paused)
            assert (resting.paused, resting.temperature, resting.throttled) == (PAUSED, 90.0, True)
            lines = set()
            while f"STATUS=rests: {PAUSED}" not in lines:
                lines.add((await asyncio.to_thread(heard.recv, 999)).decode())
            assert {"READY=1", "WATCHDOG=1", "STATUS=no link to the broker; waits for a plan"} <= lines
            stove.hot.clear()
            assert (await told(server, lambda state: not state.paused)).temperature == 40.0
            update, _ = await server.update(1)
            assert (update.trained, stove.steps) == (80, 2)


async def test_a_training_that_stays_hot_declines_when_no_time_is_left(tmp_path, scene):
    stove = Stove()
    async with surroundings(scene, tmp_path) as (server, config, _), at_work(config, stove, limits=LIMITS):
        await server.state()
        plan = changed(scene.plan(1, scene.model, "float32"), deadline=time.time() + 2)
        await server.publish_plan(plan)
        payload, _ = await server.payload(1)
        assert messages.decode(payload, messages.Decline) == messages.Decline(run=RUN, round=1, cause="paused")
        assert stove.began.is_set()


async def test_a_device_that_is_stopped_halts_between_two_steps_sends_nothing_and_says_that_it_goes(tmp_path, scene):
    stove = Stove()
    stove.goes_on.clear()
    async with surroundings(scene, tmp_path) as (server, config, _), at_work(config, stove) as device:
        await server.state()
        await server.publish_plan(scene.plan(1, scene.model, "float32"))
        await asyncio.to_thread(stove.began.wait, PATIENCE)
        device.cancel()
        assert not (await told(server, lambda state: not state.online)).online
        stove.goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await device
        taken = stove.steps
        assert list((tmp_path / "state").glob("outbox/*")) == []

        stove.hot.clear()
        async with at_work(config, stove), scripted_server(config.broker.port) as late:
            update, _ = await late.update(1)
        assert (update.round, taken) == (1, 1)


async def test_what_the_owner_withholds_is_not_said(tmp_path, scene):
    stove = Stove()
    async with surroundings(scene, tmp_path) as (server, config, _):
        silent = replace(config, report=replace(config.report, temperature=False))
        async with at_work(silent, stove):
            state = await told(server, lambda state: state.free_mb is not None)
    assert (state.temperature, state.online, state.throttled) == (None, True, False)
    assert state.free_mb > 0

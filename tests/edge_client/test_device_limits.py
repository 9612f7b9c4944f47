"""Devices with limits against a real broker and a scripted server, and what `fisherfleet-edge fit` says of them."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

import pytest

from edge_client.__main__ import main
from edge_client.limits import Hours, Limits
from edge_client.machine_sensors import Sensors
from edge_client.runner import run_device
from tests.edge_client.scripted_server import (
    DEVICE,
    RUN,
    broker,
    device_config,
    make_scene,
    needs_mosquitto,
    scripted_server,
    surroundings,
    web_server,
)
from wire_protocol import messages
from wire_protocol.sub_model import from_bitmaps

pytestmark = needs_mosquitto
LATE = datetime(2026, 11, 22, 23, 59)
"""The last round of the day may take all that is left."""
ROOM = 100_000


@asynccontextmanager
async def limited(config, limits):
    sensors = Sensors(local_time=lambda: LATE)
    device = asyncio.create_task(run_device(replace(config, limits=limits), sensors=sensors))
    try:
        yield device
    finally:
        device.cancel()
        await asyncio.gather(device, return_exceptions=True)


def bytes_of(scene) -> int:
    names = ("manifest.json", "train_step.onnx", "fisher.onnx", scene.model)
    return sum(len(page) for path, page in scene.pages.items() if path.endswith(names))


def write_config(folder, config, url, limits) -> str:
    path = folder / "device.toml"
    path.write_text(
        f'device = "{DEVICE}"\nbroker = "mqtt://127.0.0.1"\nserver = "{url}"\ndata = "{config.data}"\n'
        f"[limits]\n{limits}\n"
    )
    return str(path)


async def test_a_device_trains_what_its_bytes_allow_and_says_why(tmp_path, capsys):
    scene = make_scene(tmp_path)
    with broker(tmp_path) as port, web_server(scene.pages) as (url, asked):
        config = device_config(tmp_path, port, url)
        async with scripted_server(port) as server, limited(config, Limits(bytes_per_day=bytes_of(scene) + ROOM)):
            await server.state()
            await server.publish_plan(scene.plan(1, scene.model, "float32"))
            update, digest = await server.update(1)
            await server.send_receipt(1, digest)
        widths = from_bitmaps(scene.layout, update.kept).widths
        assert update.scored == 40
        assert ROOM * 0.7 < len(messages.encode(update)) < ROOM
        assert all(8 <= widths[group] <= size // 2 for group, size in scene.layout.group_sizes.items())
        assert widths != {group: size // 2 for group, size in scene.layout.group_sizes.items()}

        requests = dict(asked)
        path = write_config(tmp_path, config, url, "memory_mb = 10_000\nbytes_per_day = 1_000_000_000_000")
        assert main(["fit", "--config", path, "--json"]) == 0
        whole = json.loads(capsys.readouterr().out)
        assert (whole["takes_part"], whole["binds"], whole["pause"]) == (True, "keep", None)
        assert whole["round"]["local_steps"] == 2
        path = write_config(tmp_path, config, url, "seconds_per_round = 1e-9")
        assert main(["fit", "--config", path]) == 0
        assert "even the smallest sub-model is beyond seconds_per_round" in capsys.readouterr().out
        assert dict(asked) == requests


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        (Limits(hours=Hours(0, 60)), "paused"),
        (Limits(seconds_per_round=1e-9), "cannot-afford"),
        (Limits(bytes_per_day=1000), "cannot-afford"),
    ],
)
async def test_a_device_that_sits_a_round_out_says_so(tmp_path, limits, cause):
    scene = make_scene(tmp_path, hidden=(16, 16))
    async with surroundings(scene, tmp_path) as (server, config, asked), limited(config, limits):
        await server.state()
        await server.publish_plan(scene.plan(1, scene.model, "float32"))
        payload, _ = await server.payload(1)
    assert messages.decode(payload, messages.Decline) == messages.Decline(run=RUN, round=1, cause=cause)
    assert (cause == "paused") == (not asked)


def test_without_a_bundle_there_is_nothing_to_fit(tmp_path, capsys):
    path = tmp_path / "device.toml"
    path.write_text('device = "d"\nbroker = "mqtt://b"\nserver = "http://127.0.0.1:9"\ndata = "d.npz"\n')
    assert main(["fit", "--config", str(path)]) == 2
    assert "no bundle is in" in capsys.readouterr().err

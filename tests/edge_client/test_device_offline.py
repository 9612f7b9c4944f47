"""A device that cannot reach its broker for a day and more; its clock is virtual."""

import asyncio
import logging

import numpy as np

from edge_client.config import load_config
from edge_client.machine_sensors import Sensors
from edge_client.runner import run_device
from tests.edge_client import virtual_time
from tests.edge_client.test_command import write_config

DAYS = 1
SENSORS = Sensors(temperature=lambda: None, throttled=lambda: None)


def test_a_device_without_its_broker_for_long_goes_on_trying_and_fills_neither_log_nor_disk(tmp_path, caplog):
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 3), np.float32), y=np.zeros(2, int))
    config = load_config(write_config(tmp_path))
    tried = []

    async def stay_offline() -> None:
        clock = asyncio.get_running_loop()
        device = asyncio.create_task(run_device(config, sensors=SENSORS))
        until = clock.time() + DAYS * 86_400
        while clock.time() < until:
            await asyncio.sleep(3600)
            tried.append(sum("trying again" in record.message for record in caplog.records))
        assert not device.done()
        device.cancel()
        await asyncio.gather(device, return_exceptions=True)

    with caplog.at_level(logging.INFO):
        virtual_time.run(stay_offline())
    hourly = np.diff([0, *tried])
    assert (hourly >= 1).all(), "it gave up"
    assert len(caplog.records) <= 20 * 24 * DAYS
    assert sum("more such lines were left out" in record.message for record in caplog.records) >= 20 * DAYS
    assert [path for path in config.state.rglob("*") if path.is_file()] == []

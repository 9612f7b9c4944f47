"""The fleet's process: `python -m devices.emulation.fleet FOLDER PARALLEL` runs every device below FOLDER.

The devices are `edge_client`'s own, over real MQTT and HTTP, in one event loop; PARALLEL of them train at once. Nothing
here loads torch. It ends, cleanly, on SIGTERM or when its standard input closes, so that it never outlives the process
that started it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from edge_client.config import load_config
from edge_client.runner import run_device

CONFIG_NAME = "device.toml"


async def run_fleet(folder: Path, parallel: int) -> None:
    """Run all devices until cancelled; the first that cannot take part at all ends the fleet with its error."""
    configs = [load_config(path) for path in sorted(folder.glob(f"*/{CONFIG_NAME}"))]
    with ThreadPoolExecutor(parallel, thread_name_prefix="device") as executor:
        await asyncio.gather(*(run_device(config, executor=executor) for config in configs))


async def _run_until_told(folder: Path, parallel: int) -> None:
    fleet = asyncio.ensure_future(run_fleet(folder, parallel))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, fleet.cancel)
    loop.add_reader(sys.stdin, lambda: loop.remove_reader(sys.stdin) and fleet.cancel())
    with suppress(asyncio.CancelledError):
        await fleet


def main(arguments: list[str]) -> None:
    """Run the process."""
    folder, parallel = arguments
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(_run_until_told(Path(folder), int(parallel)))


if __name__ == "__main__":
    main(sys.argv[1:])

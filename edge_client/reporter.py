"""Looks at how the device is, says so on its state's topic when that changes, and has it ready for whoever asks."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge_client.allowed_report import Report
from edge_client.errors import LinkError
from edge_client.link_account import LinkAccount
from edge_client.log_limit import SECONDS_AN_HOUR, LogLimit
from edge_client.machine_sensors import Sensors
from edge_client.machine_watch import MachineWatch
from edge_client.report import Health, is_news, told
from wire_protocol.device_state import DeviceState
from wire_protocol.messages import encode

logger = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""Nothing is said more often but a birth message; the link repeats what stands at least every ten minutes."""
BYTES_PER_MB = 1_000_000


@dataclass(frozen=True)
class Examined:
    """Where a device's health is looked up; `state` is its folder."""

    watch: MachineWatch
    sensors: Sensors
    budget_left: Callable[[], float | None]
    runtime: Callable[[], str]
    state: Path

    def health(self) -> Health:
        """How the device is now. Blocks for a moment."""
        pause = self.watch.pace().pause
        return Health(
            temperature=self.sensors.temperature(),
            throttled=self.sensors.throttled(),
            paused="" if pause is None else pause.words,
            budget_left=self.budget_left(),
            free_mb=_free_mb(self.state),
            runtime=self.runtime(),
        )


class Reporter:
    """Says how one device is; `birth` is what it says of itself in any case."""

    def __init__(self, birth: DeviceState, allowed: Report, account: LinkAccount) -> None:
        self._birth, self._allowed, self._account = birth, allowed, account
        self._limit = LogLimit(logger, logging.ERROR, seconds=SECONDS_AN_HOUR)
        self.health = Health()
        self.said = birth

    def message(self) -> bytes:
        """The state as it is to be published now."""
        self.said = told(self._birth, self.health, self._allowed)
        payload = encode(self.said)
        self._account.carried(len(payload))
        return payload

    async def run(self, examined: Examined, publish: Callable[[], Awaitable[None]]) -> None:
        """Look every `LOOK_SECONDS` until cancelled; `publish` publishes `message`."""
        while True:
            try:
                self.health = await asyncio.to_thread(examined.health)
                if is_news(self.said, told(self._birth, self.health, self._allowed)):
                    await publish()
            except LinkError as error:
                logger.debug("not said how the device is: %s", error)
            except Exception as error:
                now = asyncio.get_running_loop().time()
                self._limit.log(now, "it cannot be seen how the device is: %s: %s", type(error).__name__, error)
            await asyncio.sleep(LOOK_SECONDS)


def _free_mb(folder: Path) -> int | None:
    with suppress(OSError):
        return shutil.disk_usage(folder).free // BYTES_PER_MB
    return None

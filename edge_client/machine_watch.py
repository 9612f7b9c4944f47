"""Watches the machine for one device: reads sensors as often as it is worth, and says at what pace it may train."""

from __future__ import annotations

from threading import Lock

from edge_client.errors import PausedError
from edge_client.limits import Limits
from edge_client.machine_sensors import Sensors
from edge_client.pace import Pace, next_pace

LOOK_SECONDS = 5.0
"""Readings this old are taken again: a processor without a fan heats up by a few degrees in that time."""


class MachineWatch:
    """The pace within `limits`, None for a device without any. Any thread may ask; asking may block for a moment."""

    def __init__(self, limits: Limits | None, sensors: Sensors) -> None:
        self._limits, self._sensors = limits, sensors
        self._pace = Pace()
        self._looked: float | None = None
        self._lock = Lock()

    def pace(self) -> Pace:
        """The pace now."""
        if self._limits is None:
            return self._pace
        with self._lock:
            now = self._sensors.seconds()
            if self._looked is None or now - self._looked >= LOOK_SECONDS:
                self._pace = next_pace(self._pace, self._limits, self._sensors.readings(self._limits))
                self._looked = now
            return self._pace

    def require_may_begin(self) -> None:
        """Raise `PausedError` where a round must not begin now."""
        pause = self.pace().pause
        if pause is not None:
            raise PausedError(str(pause))

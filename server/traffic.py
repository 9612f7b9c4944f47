"""Account of payload bytes between the server and its fleet.

Up: every MQTT payload received (chunks, manifests, states). Down: every MQTT payload sent to a device (slices,
receipts, needs; a plan once for each device that is online), and the bodies of bundle and model downloads by HTTP.
Headers, TCP and TLS are not counted, nor are answers to people who look at the interface.
"""

from __future__ import annotations

from dataclasses import dataclass

from wire_protocol.layout import Layout

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Bytes:
    """Payload bytes from devices (`up`) and to devices (`down`)."""

    up: int = 0
    down: int = 0

    def __sub__(self, other: Bytes) -> Bytes:
        return Bytes(self.up - other.up, self.down - other.down)


class Traffic:
    """Running total since the service started."""

    def __init__(self) -> None:
        self._total = Bytes()

    @property
    def total(self) -> Bytes:
        """Bytes so far."""
        return self._total

    def received(self, size: int) -> None:
        """A payload of `size` bytes came from a device."""
        self._total = Bytes(self._total.up + size, self._total.down)

    def sent(self, size: int, receivers: int = 1) -> None:
        """A payload of `size` bytes went to this many devices."""
        self._total = Bytes(self._total.up, self._total.down + size * receivers)


def dense_bytes(layout: Layout, exchanges: int) -> Bytes:
    """What full float32 models would cost, one each way for every exchange."""
    size = _FLOAT32_BYTES * layout.element_count * exchanges
    return Bytes(size, size)

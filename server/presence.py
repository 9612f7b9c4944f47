"""Which devices are online, as far as is known: of the fleet, whatever runs it trains."""

from __future__ import annotations

from collections.abc import Iterable


class Presence:
    """Begins with devices that are presumed `online`."""

    def __init__(self, online: Iterable[str] = ()) -> None:
        self._online = set(online)

    @property
    def online(self) -> frozenset[str]:
        """Who is online."""
        return frozenset(self._online)

    def note(self, device: str, online: bool) -> None:
        """The device is there, or is not."""
        (self._online.add if online else self._online.discard)(device)

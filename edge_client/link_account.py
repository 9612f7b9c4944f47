"""Keeps account of a device's link: how fast it is (`link_estimate`) and what went over it today (`day_traffic`).

    <state>/link

Any thread may call it. A file that is missing or damaged is an empty account; one that cannot be written is a log line.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from threading import Lock

import msgspec

from edge_client.day_traffic import DayTraffic
from edge_client.durable_files import plainly, read_checked, write_checked
from edge_client.errors import DamagedFileError
from edge_client.link_estimate import LinkEstimate

logger = logging.getLogger(__name__)

FORMAT = 1
MAX_BYTES = 4096
Key = tuple[str, int]
"""Run and round."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    link: LinkEstimate
    traffic: DayTraffic


class LinkAccount:
    """The account of one device; `path` None keeps it in memory only."""

    def __init__(self, path: Path | None, local_time: Callable[[], datetime | None]) -> None:
        self._path = path
        self._local_time = local_time
        self._lock = Lock()
        self._sending: dict[Key, tuple[float, int]] = {}
        self.link, self.traffic = _load(path)

    def carried(self, count: int) -> None:
        """So many bytes went or came that tell nothing of how fast the link is."""
        with self._lock:
            self.traffic = self.traffic.with_bytes(count, self._local_time())

    def sent(self, key: Key, count: int, now: float) -> None:
        """So many bytes of a round's payload are about to go; `now` in seconds of any clock that never goes back."""
        with self._lock:
            began, before = self._sending.get(key, (now, 0))
            self._sending[key] = (began, before + count)
            self.traffic = self.traffic.with_bytes(count, self._local_time())

    def receipt(self, key: Key, now: float) -> None:
        """The server has all of a payload."""
        with self._lock:
            began, count = self._sending.pop(key, (now, 0))
            if count:
                self.link = self.link.with_receipt(count, now - began)

    def lost(self) -> None:
        """The link broke: what was on its way tells nothing of how fast it is."""
        with self._lock:
            self._sending.clear()

    def round_began(self) -> None:
        """A round began."""
        with self._lock:
            self.traffic = self.traffic.with_round(self._local_time())

    def bytes_left(self, most: float) -> float:
        """Bytes of a day's `most` that are left today."""
        return self.traffic.left(most, self._local_time())

    def bytes_share(self, most: float, interval: float) -> float:
        """Bytes of a day's `most` that one round may take; see `DayTraffic.share`."""
        return self.traffic.share(most, self._local_time(), interval)

    def save(self) -> None:
        """Write the file; blocks."""
        if self._path is None:
            return
        with self._lock:
            content = msgspec.msgpack.encode(_Record(FORMAT, self.link, self.traffic))
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_checked(self._path, content)
            except OSError as error:
                logger.warning("%s cannot be written: %s", self._path, plainly(error))


def _load(path: Path | None) -> tuple[LinkEstimate, DayTraffic]:
    if path is not None:
        try:
            record = msgspec.msgpack.decode(read_checked(path, MAX_BYTES), type=_Record)
            if record.format == FORMAT:
                return record.link, record.traffic
            logger.warning("%s has format %d, expected %d: it is begun anew", path, record.format, FORMAT)
        except FileNotFoundError:
            pass
        except (OSError, DamagedFileError, msgspec.DecodeError, ValueError):
            logger.warning("%s cannot be read or is damaged: it is begun anew", path)
    return LinkEstimate(), DayTraffic()

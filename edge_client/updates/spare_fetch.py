"""Fetches what can wait: releases and promoted models, within what the owner allows and rounds leave.

Of a day's `bytes_per_day` rounds keep one half; what is larger than the other half comes in parts, a day's worth at a
time, as transfers go on where they stopped. Functions block but for `carried`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from threading import Event

from edge_client.durable_files import plainly
from edge_client.errors import BundleError, PausedError
from edge_client.file_fetch import FetchFile
from edge_client.http_download import Http, Wanted, is_here
from edge_client.limits import Limits, pause_reason
from edge_client.link_account import LinkAccount
from edge_client.machine_sensors import Sensors

ROUNDS_SHARE = 0.5


@dataclass(frozen=True)
class Target:
    """A file of the server's, `kind`/`sha256` below `/api/v1/`, of `size` bytes, and where it goes."""

    kind: str
    sha256: str
    size: int
    path: Path


@dataclass(frozen=True)
class SpareFetch:
    """Of one device; `server` is a URL without trailing slash, `limits` None where its owner set none."""

    server: str
    tls: ssl.SSLContext | None
    fetch: FetchFile
    limits: Limits | None
    account: LinkAccount
    sensors: Sensors

    def __call__(self, target: Target, stop: Event) -> None:
        """Make `target.path` hold the file; raises `BundleError` or `PausedError` where that is not to be had now."""
        name = f"{target.kind}/{target.sha256}"
        url = f"{self.server}/api/v1/{name}"
        wanted = Wanted(url, target.path, target.sha256, target.size, path=name)
        try:
            if is_here(wanted):
                return
            self._require_allowed()
            self.fetch(wanted, Http(self.tls, stop, lambda count: self._received(count, stop)))
        except OSError as error:
            raise BundleError(f"{target.path} cannot be kept on disk: {plainly(error)}") from error
        except BundleError:
            self._require_allowed()
            raise

    @property
    def day_is_used_up(self) -> bool:
        """Whether what is left of the day is the rounds'."""
        most = None if self.limits is None else self.limits.bytes_per_day
        return most is not None and isfinite(most) and self.account.bytes_left(most) <= most * ROUNDS_SHARE

    def _require_allowed(self) -> None:
        reason = None if self.limits is None else pause_reason(self.limits, self.sensors.readings(self.limits))
        if reason is not None:
            raise PausedError(str(reason))
        if self.day_is_used_up:
            raise PausedError("what is left of today's bytes_per_day is for rounds")

    def _received(self, count: int, stop: Event) -> None:
        """What comes by HTTP; what comes by MQTT is counted where it comes."""
        self.account.carried(count)
        if self.day_is_used_up:
            stop.set()

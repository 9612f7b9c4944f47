"""Which way a file is fetched: by HTTP, over MQTT, or by HTTP and where that fails over MQTT.

Where HTTP failed, MQTT comes first for a while, so that not every file waits for HTTP to fail again; where both fail,
HTTP is tried again next time. Functions block.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Event

from edge_client.config import DownloadMode
from edge_client.errors import BundleError, SpoiltError, UnreachableError
from edge_client.http_download import Http, Wanted, download

logger = logging.getLogger(__name__)

HTTP_AGAIN_SECONDS = 600.0

FetchFile = Callable[[Wanted, Http], None]


class FileFetch:
    """Fetches one file after another, as a `FetchFile`; raises `BundleError`, and `OSError` where the disk fails."""

    def __init__(
        self,
        mode: DownloadMode,
        by_mqtt: Callable[[Wanted, Event], None],
        by_http: FetchFile = download,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mode = mode
        self._by_mqtt = by_mqtt
        self._by_http = by_http
        self._clock = clock
        self._http_again = float("-inf")

    def __call__(self, wanted: Wanted, http: Http) -> None:
        """Make `wanted.target` hold the wanted content."""
        if self._mode == "http" or (self._mode == "auto" and self._clock() >= self._http_again):
            try:
                self._by_http(wanted, http)
                return
            except (UnreachableError, SpoiltError) as error:
                if self._mode == "http":
                    raise
                logger.warning("%s; trying MQTT", error)
                self._http_again = self._clock() + HTTP_AGAIN_SECONDS
        try:
            self._by_mqtt(wanted, http.stop)
        except BundleError:
            self._http_again = float("-inf")
            raise

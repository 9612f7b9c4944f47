"""All updates of one device, as its owner allows them: the client's own and promoted models', behind one front."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from edge_client.config import DeviceConfig
from edge_client.credentials import Credentials
from edge_client.errors import ConfigError, LinkError
from edge_client.updates.launch import OWN_VERSION
from edge_client.updates.spare_fetch import SpareFetch
from wire_protocol import topics
from wire_protocol.messages import encode
from wire_protocol.release_version import is_version
from wire_protocol.releases import ModelOffer, ReleaseOffer, ReleaseReport

if TYPE_CHECKING:
    from edge_client.updates.model_post import ModelPost
    from edge_client.updates.updater import Updater

logger = logging.getLogger(__name__)

PROMOTED = "promoted"
"""Folder of promoted models in the device's state."""

Publish = Callable[[str, bytes], Coroutine[Any, Any, None]]


def require_launched(config: DeviceConfig, environment: Mapping[str, str] = os.environ) -> None:
    """Raise `ConfigError` where the client is to update itself and was not started by what can go back."""
    if config.updates.client and not environment.get(OWN_VERSION):
        raise ConfigError(
            "updates.client is true, but this client was not started by the launcher of its package, which goes back "
            "where a release fails: install the package, or take updates.client out"
        )


def release_of(running: str, environment: Mapping[str, str] = os.environ) -> str:
    """The release that came over the air and runs, "" where it is the package's own code."""
    return running if environment.get(OWN_VERSION, running) != running else ""


class DeviceUpdates:
    """Updates of one device; belongs to one event loop. `running` is the version that runs."""

    def __init__(
        self, config: DeviceConfig, credentials: Credentials, running: str, fetch: SpareFetch, publish: Publish
    ) -> None:
        self._credentials = credentials
        self._running = running if is_version(running) else ""
        self._publish = publish
        self._leaving: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._models: Mapping[str, int] = {}
        self._takes_releases = config.updates.client
        needs_updater = config.updates.client or bool(release_of(running))
        self._updater = self._make_updater(config, fetch) if needs_updater else None
        self._post = self._make_post(config, fetch) if config.updates.models else None
        if self._post is not None:
            self._spawn(self._post.run())

    def _make_updater(self, config: DeviceConfig, fetch: SpareFetch) -> Updater:
        from edge_client.updates.release_folder import ReleaseFolder  # noqa: PLC0415 - who takes none needs none
        from edge_client.updates.updater import Updater, UpdateTools  # noqa: PLC0415

        folder = ReleaseFolder(config.releases, self._running)
        tools = UpdateTools(self._credentials, os.environ[OWN_VERSION], self._running, folder, fetch)
        return Updater(tools, self._leave, self._send)

    def _make_post(self, config: DeviceConfig, fetch: SpareFetch) -> ModelPost:
        from edge_client.updates.model_post import ModelPost  # noqa: PLC0415 - who takes none needs none
        from edge_client.updates.promoted_models import PromotedModels  # noqa: PLC0415

        models = PromotedModels(config.state / PROMOTED, fetch)
        return ModelPost(self._credentials.device, models, self._infers_with)

    async def leaving(self) -> str:
        """Why the process is to end and to be started again; returns when it is."""
        return await asyncio.shield(self._leaving)

    def offer_arrived(self, offer: ReleaseOffer | ModelOffer | None) -> None:
        """An offer came; None: that of a release was withdrawn."""
        if isinstance(offer, ModelOffer):
            if self._post is not None:
                self._post.offer_arrived(offer)
        elif self._updater is not None and self._takes_releases:
            self._updater.offer_arrived(offer)

    def link_changed(self, up: bool) -> None:
        """The link went up or down."""
        if self._updater is not None:
            self._updater.link_changed(up)
        elif up:
            self._report_models()

    def round_changed(self, busy: bool) -> None:
        """A round began, or the last one ended."""
        for one in (self._updater, self._post):
            if one is not None:
                one.round_changed(busy)

    def round_counted(self) -> None:
        """The server counted an update."""
        if self._updater is not None:
            self._updater.round_counted()

    def fault_seen(self) -> None:
        """The client failed in a way that nobody foresaw."""
        if self._updater is not None:
            self._updater.fault_seen()

    def bytes_came(self) -> None:
        """Something came over the link."""
        if self._updater is not None:
            self._updater.bytes_came()

    async def close(self) -> None:
        """End what is going on."""
        if self._updater is not None:
            await self._updater.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _leave(self, reason: str) -> None:
        if not self._leaving.done():
            self._leaving.set_result(reason)

    def _infers_with(self, models: Mapping[str, int]) -> None:
        self._models = models
        if self._updater is not None:
            self._updater.infers_with(models)
        else:
            self._report_models()

    def _report_models(self) -> None:
        if self._post is not None:
            self._send(ReleaseReport(version=self._running, models=dict(self._models)))

    def _send(self, report: ReleaseReport) -> None:
        self._spawn(self._send_soon(self._credentials.sign_report(encode(report))))

    async def _send_soon(self, payload: bytes) -> None:
        """What is lost is said again with the next link."""
        try:
            await self._publish(topics.report(self._credentials.device), payload)
        except LinkError as error:
            logger.debug("%s: what it runs was not reported: %s", self._credentials.device, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

"""Takes promoted models as they are offered, one at a time, between rounds; tells what is here then."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from threading import Event as Flag

from edge_client.errors import BundleError, PausedError, TrainingError
from edge_client.updates.again import again_after
from edge_client.updates.promoted_models import PromotedModels
from wire_protocol.releases import ModelOffer

logger = logging.getLogger(__name__)


class ModelPost:
    """Of one device; belongs to one event loop. `changed` is told the versions that are here, by run."""

    def __init__(self, name: str, models: PromotedModels, changed: Callable[[Mapping[str, int]], None]) -> None:
        self._name = name
        self._models = models
        self._changed = changed
        self._wanted: dict[str, ModelOffer] = {}
        self._unloadable: set[str] = set()
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stop = Flag()

    def offer_arrived(self, offer: ModelOffer) -> None:
        """A model is promoted."""
        known = self._wanted.get(offer.run)
        if known is None or offer.promotion > known.promotion:
            self._wanted[offer.run] = offer
            self._news.set()

    def round_changed(self, busy: bool) -> None:
        """A round began, or the last one ended."""
        if busy:
            self._idle.clear()
            self._stop.set()
        else:
            self._idle.set()

    async def run(self) -> None:
        """Take what is offered until cancelled."""
        self._changed(await asyncio.to_thread(self._models.versions))
        failures = 0
        try:
            while True:
                await self._news.wait()
                await self._idle.wait()
                self._news.clear()
                failures = failures + 1 if await self._take_all() else 0
                if failures:
                    await asyncio.sleep(again_after(failures - 1, random.random()))
        finally:
            self._stop.set()

    async def _take_all(self) -> bool:
        """Whether something is to be tried again."""
        for offer in tuple(self._wanted.values()):
            self._stop = Flag()
            try:
                if await asyncio.to_thread(self._take, offer, self._stop):
                    self._changed(await asyncio.to_thread(self._models.versions))
            except (BundleError, PausedError) as error:
                logger.warning("%s: model %d of run %s: not now: %s", self._name, offer.version, offer.run, error)
                self._news.set()
                return self._idle.is_set()
            except TrainingError as error:
                self._unloadable.add(offer.sha256)
                logger.error("%s: model %d of run %s stays out: %s", self._name, offer.version, offer.run, error)
            if self._wanted.get(offer.run) == offer:
                del self._wanted[offer.run]
        return False

    def _take(self, offer: ModelOffer, stop: Flag) -> bool:
        """Whether another model is here now."""
        if offer.sha256 in self._unloadable or not self._models.wants(offer):
            return False
        self._models.take(offer, stop)
        logger.info("%s: model %d of run %s is the one to infer with", self._name, offer.version, offer.run)
        return True

"""Tells devices which release of the client and which promoted models are theirs, and hears what came of it.

Reports are believed by the device's signature and written down in batches; after each, and after every order, rollouts
are looked at afresh: a part that has proven a release lets the rest follow, one that failed too often halts.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from server.clocks import Clocks
from server.device_tags import DeviceTags
from server.downlink import Send
from server.errors import StorageError
from server.event_log import EventLog
from server.operator_keys import Operator
from server.promotions import Promotions
from server.registry import Registry
from server.releases.offer_book import OfferBook, Posting, Wanted
from server.releases.release_rows import ReleaseRows, RolloutRecord
from server.releases.rollout import Progress, Said, progress
from server.storage import Store
from server.traffic import Traffic
from wire_protocol import messages, topics
from wire_protocol.envelope import Context, sign, verify
from wire_protocol.releases import ReleaseOffer, ReleaseReport

logger = logging.getLogger(__name__)

LOOK_SECONDS = 3600.0
_AGAIN_SECONDS = 10.0


@dataclass(frozen=True)
class ReleaseRecords:
    """What rollouts are made of."""

    rows: ReleaseRows
    tags: DeviceTags
    promotions: Promotions
    events: EventLog
    registry: Registry

    @classmethod
    def of(cls, store: Store, registry: Registry) -> ReleaseRecords:
        """Those of a service."""
        return cls(store.releases, store.tags, store.promotions, store.events, registry)

    def standing(self) -> list[tuple[RolloutRecord, Progress]]:
        """How each rollout stands, the newest first."""
        reports = self.rows.reports()
        said = {report.device: Said(report.offered, report.attempt, report.status) for report in reports}
        enrolled = [name for name, one in self.registry.devices().items() if not one.revoked]
        found = []
        for record in self.rows.rollouts():
            tag = record.rollout.tag
            tagged = frozenset[str]() if tag is None else self.tags.with_tag(tag)
            found.append((record, progress(record.rollout, record.rollout.members(enrolled, tagged), said)))
        return found

    def wanted(self) -> dict[str, Wanted | None]:
        """What each device is to be offered: by the newest rollout that it belongs to; halts those that must."""
        wanted: dict[str, Wanted | None] = {}
        for record, stands in self.standing():
            going = record.status == "going"
            if going and stands.halt:
                self.rows.halt(record.id, stands.halt)
                self.events.add("release-halted", stands.halt)
                logger.error("rollout %d is halted: %s", record.id, stands.halt)
                going = False
            offer = Wanted(record.rollout.version, record.rollout.attempt)
            for device in stands.everybody:
                wanted.setdefault(device, offer if going and device in stands.offered else None)
        return wanted


class ReleasePost:
    """Belongs to one event loop; `send` gives a message to the broker, or drops it."""

    def __init__(
        self,
        records: ReleaseRecords,
        operator: Operator,
        send: Send,
        traffic: Traffic,
        clocks: Clocks,
    ) -> None:
        self._records = records
        self._operator = operator
        self._send = send
        self._traffic = traffic
        self._clocks = clocks
        self._book = OfferBook()
        self._reports: dict[str, ReleaseReport] = {}
        self._models_said: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()

    def on_report(self, device: str, payload: bytes) -> None:
        """Take a signed report; raises `ProtocolError` when it is not legal or not the device's."""
        context = Context("report", self._operator.fleet, device=device)
        body = verify(payload, context, self._records.registry.keys(device))
        self._reports[device] = messages.decode(body, ReleaseReport)
        self._news.set()

    def on_connected(self) -> None:
        """What the broker retains is not known."""
        self._book.forget()
        self._models_said.clear()
        self._news.set()

    def changed(self) -> None:
        """An order was given; any thread may say so."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._news.set)

    async def run(self) -> None:
        """Look at rollouts when there is news, and now and then, until cancelled."""
        loop = self._loop = asyncio.get_running_loop()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._look()
            except Exception as error:
                unexpected = None if isinstance(error, StorageError) else error
                logger.error("releases could not be looked at: %s", error, exc_info=unexpected)
                loop.call_later(_AGAIN_SECONDS, self._news.set)

    async def _look(self) -> None:
        reports = dict(self._reports)
        await asyncio.to_thread(self._records.rows.note_reports, reports)
        for device, report in reports.items():
            if self._reports.get(device) is report:
                del self._reports[device]
        wanted = await asyncio.to_thread(self._records.wanted)
        now = self._clocks.wall()
        fresh = self._book.due(wanted, now)
        told = {posting.device for posting in fresh}
        said = {device: Said(one.offered, one.attempt, one.status) for device, one in reports.items()}
        again = [posting for posting in self._book.again(said) if posting.device not in told]
        await self._publish([*fresh, *again])
        await self._publish_models()

    async def _publish(self, postings: list[Posting]) -> None:
        signed: dict[str, tuple[bytes, ...]] = {}
        for posting in postings:
            payload = b""
            if posting.wanted is not None:
                version = posting.wanted.version
                if version not in signed:
                    signed[version] = await asyncio.to_thread(self._records.rows.signed, version)
                payload = self._offer(posting, signed[version]) if signed[version] else b""
            self._say(topics.release(posting.device), payload)

    def _offer(self, posting: Posting, releases: tuple[bytes, ...]) -> bytes:
        assert posting.wanted is not None
        offer = ReleaseOffer(releases=releases, attempt=posting.wanted.attempt, expires=posting.expires)
        context = Context("release-offer", self._operator.fleet, device=posting.device)
        return sign(messages.encode(offer), context, self._operator.identities)

    async def _publish_models(self) -> None:
        for record in await asyncio.to_thread(self._records.promotions.records):
            if self._models_said.get(record.run) != record.promotion:
                self._models_said[record.run] = record.promotion
                context = Context("model", self._operator.fleet, record.run)
                payload = sign(messages.encode(record.offer), context, self._operator.identities)
                self._say(topics.model(record.run), payload)

    def _say(self, topic: str, payload: bytes) -> None:
        if self._send(topic, payload, retain=True):
            self._traffic.sent(len(payload))

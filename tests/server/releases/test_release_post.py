"""Offers and reports between a post and devices, on a wire that can forget."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from server.clocks import Clocks
from server.releases.release_post import ReleasePost, ReleaseRecords
from server.releases.rollout import Rollout
from server.traffic import Traffic
from tests.patience import PATIENCE
from tests.server.releases.release_files import a_release, signed
from wire_protocol import messages, topics
from wire_protocol.envelope import Context, sign, verify
from wire_protocol.errors import ProtocolError
from wire_protocol.releases import ModelOffer, Release, ReleaseOffer, ReleaseReport


class Bench:
    """`retained` is what the broker holds."""

    def __init__(self, premises, fleet) -> None:
        self.fleet, self.store = fleet, premises.store
        self.retained: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.now = 1000.0
        store = premises.store
        self.records = ReleaseRecords(store.releases, store.tags, store.promotions, store.events, premises.registry)
        clocks = Clocks(wall=lambda: self.now, steady=lambda: self.now)
        self.post = ReleasePost(self.records, fleet.operator, self.send, Traffic(), clocks)

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        assert retain
        self.sent.append(topic)
        self.retained[topic] = payload
        return True

    def offer(self, device: str) -> ReleaseOffer | None:
        payload = self.retained.get(topics.release(device), b"")
        if not payload:
            return None
        context = Context("release-offer", "fleet", device=device)
        return messages.decode(verify(payload, context, self.fleet.public.operator), ReleaseOffer)

    def report(self, device: str, status: str, attempt: int = 1, signer: str | None = None) -> None:
        report = ReleaseReport(version="0.1.0", offered="0.2.0", attempt=attempt, status=status)
        keys = [self.fleet.devices[signer or device]]
        self.post.on_report(device, sign(messages.encode(report), Context("report", "fleet", device=device), keys))

    async def until(self, condition) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
def bench(premises, fleet):
    return Bench(premises, fleet)


@asynccontextmanager
async def running(bench: Bench):
    task = asyncio.create_task(bench.post.run())
    bench.post.on_connected()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def offered(bench: Bench) -> set[str]:
    return {device for device in bench.fleet.devices if bench.offer(device) is not None}


async def test_a_part_is_offered_a_release_first_and_the_rest_when_that_part_has_proven_it(bench):
    bench.store.releases.add(signed(bench.fleet.operator, a_release()), b"packages")
    async with running(bench):
        bench.store.releases.roll_out(Rollout("0.2.0", fraction=0.5), "kim")
        bench.post.changed()
        await bench.until(lambda: len(offered(bench)) == 3)
        first = offered(bench)
        offer = bench.offer(min(first))
        (word,) = (verify(one, Context("release", "fleet"), bench.fleet.public.operator) for one in offer.releases)
        assert messages.decode(word, Release) == a_release()
        assert offer.expires > bench.now
        for device in first:
            bench.report(device, "confirmed")
        await bench.until(lambda: offered(bench) == set(bench.fleet.devices))


async def test_failures_halt_it_and_the_offer_is_taken_back(bench):
    bench.store.releases.add(signed(bench.fleet.operator, a_release()), b"packages")
    bench.store.releases.roll_out(Rollout("0.2.0"), "kim")
    async with running(bench):
        await bench.until(lambda: len(offered(bench)) == 6)
        bench.report("a", "failed")
        await bench.until(lambda: not offered(bench))
        record = bench.store.releases.rollouts()[0]
        assert (record.status, record.reason) == (
            "halted",
            "1 of 1 devices that took release 0.2.0 say that it failed",
        )
        bench.store.releases.roll_out(Rollout("0.2.0", devices=("a",)), "kim", again=True)
        bench.post.changed()
        await bench.until(lambda: offered(bench) == {"a"})
        assert bench.offer("a").attempt == 2


async def test_a_device_that_reports_without_knowing_of_its_offer_is_told_again(bench):
    bench.store.releases.add(signed(bench.fleet.operator, a_release()), b"packages")
    bench.store.releases.roll_out(Rollout("0.2.0", devices=("a", "b")), "kim")
    async with running(bench):
        await bench.until(lambda: offered(bench) == {"a", "b"})
        bench.retained.clear()
        bench.report("b", "fetching")
        bench.report("a", "none", attempt=0)
        await bench.until(lambda: offered(bench) == {"a"})
        bench.retained.clear()
        bench.post.on_connected()
        await bench.until(lambda: offered(bench) == {"a", "b"})


async def test_only_a_devices_own_report_is_believed(bench):
    async with running(bench):
        with pytest.raises(ProtocolError, match="no valid signature"):
            bench.report("a", "failed", signer="b")
        bench.report("a", "failed")
        await bench.until(lambda: len(bench.store.releases.reports()) == 1)


async def test_a_promoted_model_is_said_once_and_to_each_new_broker(bench):
    async with running(bench):
        bench.store.promotions._note("digits", 3, b"model")
        bench.post.changed()
        topic = topics.model("digits")
        await bench.until(lambda: topic in bench.retained)
        body = verify(bench.retained[topic], Context("model", "fleet", "digits"), bench.fleet.public.operator)
        offer = messages.decode(body, ModelOffer)
        assert (offer.version, offer.size) == (3, 5)
        bench.retained.clear()
        bench.post.on_connected()
        await bench.until(lambda: topic in bench.retained)
        assert bench.sent.count(topic) == 2
        bench.store.promotions._note("digits", 2, b"older")
        bench.post.changed()
        await bench.until(lambda: bench.sent.count(topic) == 3)
        body = verify(bench.retained[topic], Context("model", "fleet", "digits"), bench.fleet.public.operator)
        assert messages.decode(body, ModelOffer).promotion > offer.promotion

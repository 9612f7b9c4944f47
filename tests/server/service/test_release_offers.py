"""A service tells a device of its release and of a promoted model, and hears what came of it."""

import asyncio
from dataclasses import replace

import aiomqtt
import httpx

from server.releases.rollout import Rollout
from tests.server.releases.release_files import a_release, signed
from wire_protocol import messages, topics
from wire_protocol.envelope import Context, sign, verify
from wire_protocol.releases import ModelOffer, ReleaseOffer, ReleaseReport


async def test_offers_go_out_retained_and_reports_come_in(settings, serving, broker, fleet) -> None:
    operator = fleet.public.operator
    async with serving(replace(settings, bundle=None, test=None)) as (service, _, _):
        store = service.store
        store.releases.add(signed(fleet.operator, a_release()), b"packages")
        store.releases.roll_out(Rollout("0.2.0", devices=("a",)), "kim")
        store.promotions._note("digits", 3, b"model")
        service._releases.changed()
        async with aiomqtt.Client("127.0.0.1", broker.port) as device:
            found = {}
            await device.subscribe([(topics.downlink_filter("a"), 1), (topics.model("+"), 1)])
            while len(found) < 2:
                message = await anext(device.messages)
                found[str(message.topic)] = message.payload
            context = Context("release-offer", "fleet", device="a")
            offer = messages.decode(verify(found[topics.release("a")], context, operator), ReleaseOffer)
            assert offer.releases == (signed(fleet.operator, a_release()).signed,)
            body = verify(found[topics.model("digits")], Context("model", "fleet", "digits"), operator)
            assert messages.decode(body, ModelOffer).version == 3
            report = ReleaseReport(
                version="0.2.0", offered="0.2.0", attempt=1, status="confirmed", models={"digits": 3}
            )
            context = Context("report", "fleet", device="a")
            await device.publish(
                topics.report("a"), sign(messages.encode(report), context, [fleet.devices["a"]]), qos=1
            )
            while not store.releases.reports():
                await asyncio.sleep(0.01)
        async with httpx.AsyncClient() as http:
            archive = await http.get(f"{service.http_url}/api/v1/releases/{a_release().sha256}")
        assert archive.content == b"packages"
        assert store.releases.reports()[0].status == "confirmed"

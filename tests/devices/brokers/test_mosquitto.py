"""A real mosquitto with the generated configuration, and devices that try what they may not."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiomqtt
import pytest

from devices.brokers.__main__ import main
from devices.doctor.reaching import examine_reach
from devices.doctor.seats import Seat, client_tls
from devices.provisioning.enrolment import Surroundings, add_devices
from devices.provisioning.rotation import begin_device_rotation, finish_device_rotation
from server.fleet.authority_folder import AuthorityFolder, ensure_credentials
from server.fleet.certificates import Subject, Validity
from server.fleet.fleet_folder import FleetFolder, create_fleet
from server.fleet.membership import revoke_device
from wire_protocol import topics
from wire_protocol.broker_url import parse_broker_url
from wire_protocol.topics import Part

WAIT_SECONDS = 20
END = b"end"


@asynccontextmanager
async def client(fleet: FleetFolder, broker, place: Path, name: str) -> AsyncIterator[aiomqtt.Client]:
    """Connect with the certificate of a folder, under a client id."""
    tls = client_tls(fleet.server / "ca.pem", place)
    async with aiomqtt.Client("127.0.0.1", broker.port, identifier=name, tls_context=tls, timeout=WAIT_SECONDS) as one:
        yield one


async def until_end(reader: aiomqtt.Client) -> list[str]:
    """Topics of what arrived before the last message."""
    seen = []
    async with asyncio.timeout(WAIT_SECONDS):
        async for message in reader.messages:
            if message.payload == END:
                return seen
            seen.append(str(message.topic))
    raise AssertionError("the broker ended the connection")


def pieces(device: str) -> list[str]:
    """Every topic that `topics.py` can make for what a device sends, once."""
    part = Part(device, "run-1", 3, None)
    return [topics.uplink(part), topics.uplink(part._replace(chunk=0)), topics.state(device), topics.report(device)]


def downward(device: str) -> list[str]:
    """The same for what a device is sent."""
    part = Part(device, "run-1", 3, None)
    pieces = [topics.slice_(part), topics.slice_(part._replace(chunk=0))]
    return [topics.receipt(device), topics.need(device), topics.release(device), *pieces]


async def test_a_device_writes_what_bears_its_name_and_nothing_else(fleet, secured):
    broker = secured()
    allowed = pieces("kitchen")
    forbidden = [*pieces("garden"), *downward("garden"), *downward("kitchen"), topics.plan("run-1"), "other"]
    async with (
        client(fleet, broker, fleet.server, "server") as server,
        client(fleet, broker, fleet.identity("garden"), "garden") as garden,
        client(fleet, broker, fleet.identity("kitchen"), "kitchen") as kitchen,
    ):
        await server.subscribe([(topics.UPLINK_FILTER, 1), (topics.STATE_FILTER, 1), ("#", 1)])
        await garden.subscribe([("#", 1)])
        for topic in (*forbidden, *allowed):
            await kitchen.publish(topic, b"forged", qos=1)
        await kitchen.publish(topics.state("kitchen"), END, qos=1)
        assert set(await until_end(server)) == set(allowed)
        await server.publish(topics.receipt("garden"), END, qos=1)
        assert await until_end(garden) == []


async def test_a_device_reads_what_bears_its_name_and_what_is_for_all(fleet, secured):
    broker = secured()
    async with (
        client(fleet, broker, fleet.server, "server") as server,
        client(fleet, broker, fleet.identity("garden"), "garden") as garden,
        client(fleet, broker, fleet.identity("kitchen"), "kitchen") as kitchen,
    ):
        filters = [
            "#",
            topics.downlink_filter("garden"),
            topics.UPLINK_FILTER,
            topics.STATE_FILTER,
            "fl/v1/down/+/need",
        ]
        await kitchen.subscribe([(name, 1) for name in filters])
        for topic in pieces("garden"):
            await garden.publish(topic, b"secret", qos=1)
        allowed = [*downward("kitchen"), topics.plan("run-1"), topics.model("run-1")]
        for topic in (*downward("garden"), *allowed):
            await server.publish(topic, b"told", qos=1)
        await server.publish(topics.need("kitchen"), END, qos=1)
        assert set(await until_end(kitchen)) == set(allowed)


async def test_a_stolen_certificate_is_its_owner_whatever_client_id_it_comes_with(fleet, secured):
    broker = secured()
    async with (
        client(fleet, broker, fleet.server, "server") as server,
        client(fleet, broker, fleet.identity("garden"), "garden") as garden,
    ):
        await server.subscribe(topics.UPLINK_FILTER, qos=1)
        await garden.subscribe(topics.downlink_filter("garden"), qos=1)
        async with client(fleet, broker, fleet.identity("kitchen"), "garden") as thief:
            await thief.subscribe(topics.downlink_filter("garden"), qos=1)
            await thief.subscribe(topics.downlink_filter("kitchen"), qos=1)
            await thief.publish(pieces("garden")[0], b"forged", qos=1)
            await thief.publish(pieces("kitchen")[1], END, qos=1)
            assert await until_end(server) == []
            await server.publish(topics.receipt("garden"), b"secret", qos=1)
            await server.publish(topics.receipt("kitchen"), END, qos=1)
            assert await until_end(thief) == []
        await server.publish(topics.need("garden"), END, qos=1)
        assert await until_end(garden) == [topics.receipt("garden")]


async def refusal(fleet: FleetFolder, broker, place: Path, name: str) -> str:
    """Why the broker does not take a client, in the doctor's words; empty where it does."""
    seat = Seat(parse_broker_url(broker.url), name, client_tls(fleet.server / "ca.pem", place))
    return "; ".join(finding.text for finding in await examine_reach(seat, WAIT_SECONDS) if finding.level == "bad")


async def test_a_revoked_certificate_is_refused_once_the_broker_has_reloaded(fleet, secured):
    broker = secured()
    assert await refusal(fleet, broker, fleet.identity("kitchen"), "kitchen") == ""
    for name in ("kitchen", "garden"):  # twice, within a second: the newer list must win over one already loaded
        revoke_device(fleet, name, datetime.now(UTC))
        broker.reload()
        assert "certificate was revoked" in await refusal(fleet, broker, fleet.identity(name), name)
    assert await refusal(fleet, broker, fleet.server, "server") == ""


async def test_a_connection_that_stands_outlives_the_revocation_until_the_broker_restarts(fleet, secured):
    """What `fisherfleet fleet revoke` says; the server counts nothing from it all the same."""
    broker = secured()
    async with client(fleet, broker, fleet.identity("kitchen"), "kitchen") as kitchen:
        revoke_device(fleet, "kitchen", datetime.now(UTC))
        broker.reload()
        await kitchen.publish(topics.state("kitchen"), b"still here", qos=1, timeout=WAIT_SECONDS)
    broker.stop()
    broker.start()
    assert "certificate was revoked" in await refusal(fleet, broker, fleet.identity("kitchen"), "kitchen")


async def test_after_a_rotation_the_old_certificate_is_refused_and_the_new_one_taken(fleet, secured, tmp_path):
    broker = secured()
    stolen = tmp_path / "stolen"
    stolen.mkdir()
    for name in ("tls.pem", "tls.key"):
        (stolen / name).write_bytes((fleet.identity("kitchen") / name).read_bytes())
        (stolen / name).chmod(0o600)
    begin_device_rotation(fleet, "kitchen", datetime.now(UTC))
    for place in (stolen, fleet.identity("kitchen")):
        assert await refusal(fleet, broker, place, "kitchen") == ""
    finish_device_rotation(fleet, "kitchen", datetime.now(UTC))
    broker.reload()
    assert "certificate was revoked" in await refusal(fleet, broker, stolen, "kitchen")
    assert await refusal(fleet, broker, fleet.identity("kitchen"), "kitchen") == ""


async def test_certificates_of_another_authority_or_past_their_end_are_refused(fleet, secured, tmp_path):
    broker = secured()
    now = datetime.now(UTC)
    other = create_fleet(tmp_path / "other", "home", (), now)
    add_devices(other, ["kitchen"], Surroundings(), now)
    assert "does not know the authority" in await refusal(fleet, broker, other.identity("kitchen"), "kitchen")
    late = fleet.identity("late")
    late.mkdir(parents=True)
    past = Validity(datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC))
    ensure_credentials(AuthorityFolder.open(fleet.authority), late, Subject("late"), past)
    assert "certificate has ended" in await refusal(fleet, broker, late, "late")


async def test_a_message_above_the_limit_ends_the_senders_connection_instead_of_vanishing(fleet, secured):
    broker = secured()
    with pytest.raises(aiomqtt.MqttError):
        async with client(fleet, broker, fleet.identity("kitchen"), "kitchen") as kitchen:
            await kitchen.publish(pieces("kitchen")[1], bytes(300_000), qos=1, timeout=WAIT_SECONDS)


async def test_a_renewed_broker_certificate_is_used_after_a_reload(fleet, secured):
    broker = secured()
    issuer = AuthorityFolder.open(fleet.authority)
    (fleet.broker / "tls.pem").unlink()
    ensure_credentials(issuer, fleet.broker, Subject("broker", ("127.0.0.1",)), Validity.lasting(7, datetime.now(UTC)))
    broker.reload()
    async with client(fleet, broker, fleet.server, "server") as server:
        shown = server._client.socket().getpeercert(binary_form=True)
    ours = ssl.PEM_cert_to_DER_cert((fleet.broker / "tls.pem").read_text())
    assert shown == ours


def test_files_elsewhere_are_complete_and_name_where_they_will_be(fleet, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["mosquitto", "--fleet", str(fleet.path), "--out", str(out), "--install-path", "/etc/mosquitto"]
    assert main([*command, "--port", "9883"]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"ca.pem", "tls.pem", "tls.key", "crl.pem", "mosquitto.conf", "acl"}
    assert (out / "tls.key").stat().st_mode & 0o777 == 0o600
    lines = (out / "mosquitto.conf").read_text().splitlines()
    assert {"listener 9883", "acl_file /etc/mosquitto/acl", "crlfile /etc/mosquitto/crl.pem"} <= set(lines)
    assert {"persistence_location /var/lib/mosquitto/", "allow_anonymous false", "persistence true"} <= set(lines)
    assert str(tmp_path) not in "\n".join(lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "0"], "port must be 1 to 65535"),
        (["--install-path", "etc"], "install-path must be an absolute path"),
        (["--fleet", "/nowhere"], "holds no fleet; make one with: fisherfleet fleet init /nowhere"),
    ],
)
def test_mistakes_are_named(fleet, options, message, capsys):
    command: list[str] = ["mosquitto", "--fleet", str(fleet.path), *options]
    assert main(command) == 2
    assert message in capsys.readouterr().err

"""The link by TLS against a real broker: certificates that are good, wrong, missing, expired and revoked."""

import asyncio
import logging
import socket
import subprocess
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge_client import mqtt_link
from edge_client.config import DeviceConfig
from edge_client.credentials import broker_tls, load_credentials, server_tls
from edge_client.errors import ConfigError
from edge_client.mqtt_link import LinkSettings, LinkUp, MqttLink
from edge_client.tls_words import explain
from tests.edge_client.scripted_server import MOSQUITTO, PATIENCE, free_port, needs_mosquitto
from tests.fleet_keys import write_identity
from wire_protocol.broker_url import BrokerUrl
from wire_protocol.identity import IdentityError

DAY = timedelta(days=1)

pytestmark = [
    # the MQTT client leaves the socket of a failed handshake to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"),
]


@dataclass(frozen=True)
class Authority:
    """A certificate authority."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls, name: str) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, name, key, -DAY, 10 * DAY)
        extended = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(key, extended.sign(key, hashes.SHA256()))

    def issue(self, folder: Path, stem: str, name: str, begin: timedelta = -DAY, end: timedelta = DAY) -> None:
        """Write `stem`.pem and `stem`.key."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        certificate = (
            _builder(name, issuer, key, begin, end).add_extension(names, critical=False).sign(self.key, hashes.SHA256())
        )
        write(folder / f"{stem}.pem", certificate)
        path = folder / f"{stem}.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        path.chmod(0o600)

    def revoke(self, path: Path, certificate: Path) -> None:
        """Write a revocation list with one certificate."""
        now = datetime.now(timezone.utc)
        serial = x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(now - DAY).next_update(now + DAY).add_revoked_certificate(revoked)
        path.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def _builder(name, issuer, key, begin, end) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    author = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(author).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now + begin).not_valid_after(now + end)


def write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new("fleet")


@pytest.fixture(scope="module")
def stranger() -> Authority:
    return Authority.new("stranger")


@pytest.fixture
def device(tmp_path, authority) -> DeviceConfig:
    """A device with a good certificate, and a broker's good certificate beside it."""
    identity = write_identity(tmp_path, "pi")
    write(identity / "ca.pem", authority.certificate)
    authority.issue(identity, "tls", "pi")
    authority.issue(tmp_path, "broker", "broker")
    write(tmp_path / "broker-ca.pem", authority.certificate)
    broker = BrokerUrl("127.0.0.1", free_port(), tls=True)
    return DeviceConfig("pi", broker, "https://s", tmp_path / "d", tmp_path / "state", identity)


@contextmanager
def broker(folder: Path, port: int, *, revocations: str = ""):
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nrequire_certificate true\n"
        f"cafile {folder}/broker-ca.pem\ncertfile {folder}/broker.pem\nkeyfile {folder}/broker.key\n"
        f"use_identity_as_username true\nuser root\n{revocations}"
    )
    process = subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def linked(config: DeviceConfig, wall=time.time):
    settings = LinkSettings(config.broker, "pi", ("x",), "state/pi", lambda: b"here", b"gone", broker_tls(config))
    events: asyncio.Queue = asyncio.Queue()
    task = asyncio.create_task(MqttLink(settings, wall).run(events.put_nowait))
    try:
        yield events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(mqtt_link, "BACKOFF_CEILING_SECONDS", 0.1)
    monkeypatch.setattr(mqtt_link, "CONNECT_SECONDS", 1.0)


async def until(condition) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), PATIENCE)


async def refused(config: DeviceConfig, caplog, words: str = "", tries: int = 2) -> str:
    """What the log says after a few tries, all of which failed; `words` come with one of them.

    An alert may be lost in a try: what a broker has said before it hung up is not read once writing has failed.
    """
    with caplog.at_level(logging.WARNING):
        async with linked(config) as events:
            await until(lambda: len(caplog.records) >= tries and words in caplog.text)
            assert events.empty()
    assert all("no link to mqtts://127.0.0.1" in record.message for record in caplog.records), caplog.text
    assert all("trying again" in record.message for record in caplog.records)
    return caplog.records[-1].message


@needs_mosquitto
async def test_a_good_certificate_is_let_in(tmp_path, device):
    with broker(tmp_path, device.broker.port):
        async with linked(device) as events:
            assert await asyncio.wait_for(events.get(), PATIENCE) == LinkUp()


@needs_mosquitto
async def test_a_broker_of_another_authority_is_not_trusted_and_is_when_it_mends_its_ways(
    tmp_path, device, authority, stranger, caplog
):
    stranger.issue(tmp_path, "broker", "broker")
    with broker(tmp_path, device.broker.port):
        said = await refused(device, caplog)
        assert "the broker's certificate is not from the authority trusted here (ca.pem)" in said
    authority.issue(tmp_path, "broker", "broker")
    with broker(tmp_path, device.broker.port):
        async with linked(device) as events:
            assert await asyncio.wait_for(events.get(), PATIENCE) == LinkUp()


@needs_mosquitto
@pytest.mark.parametrize(("days", "words"), [((-9, -1), "has expired"), ((1, 9), "is not valid yet")])
async def test_a_brokers_certificate_out_of_date_is_named(tmp_path, device, authority, caplog, days, words):
    authority.issue(tmp_path, "broker", "broker", days[0] * DAY, days[1] * DAY)
    with broker(tmp_path, device.broker.port):
        assert f"the broker's certificate {words}" in await refused(device, caplog)


@needs_mosquitto
async def test_a_broker_under_another_address_is_named(tmp_path, device, caplog):
    elsewhere = replace(device, broker=replace(device.broker, host="localhost"))
    with broker(tmp_path, device.broker.port), caplog.at_level(logging.WARNING):
        async with linked(elsewhere):
            await until(lambda: bool(caplog.records))
    assert "the broker's certificate is for another host name" in caplog.text


@needs_mosquitto
async def test_a_device_without_a_certificate_is_told_so(tmp_path, device, caplog):
    (device.identity / "tls.pem").unlink()
    with broker(tmp_path, device.broker.port):
        await refused(device, caplog, "wants a certificate of this device")


@needs_mosquitto
async def test_a_revoked_device_is_told_so(tmp_path, device, authority, caplog):
    authority.revoke(tmp_path / "revoked.pem", device.identity / "tls.pem")
    with broker(tmp_path, device.broker.port, revocations=f"crlfile {tmp_path}/revoked.pem\n"):
        await refused(device, caplog, "this device's certificate (tls.pem) was revoked")


@needs_mosquitto
async def test_a_device_whose_clock_was_never_set_says_so_and_tries_again_once_it_is(
    tmp_path, device, authority, caplog, monkeypatch
):
    """The certificate begins to be valid after the time that the device takes it to be."""
    monkeypatch.setattr(mqtt_link, "full_jitter", lambda *_, **__: 3600.0)
    monkeypatch.setattr(mqtt_link, "CLOCK_LOOK_SECONDS", 0.01)
    authority.issue(tmp_path, "broker", "broker", DAY, 9 * DAY)
    wall = [0.0]
    with caplog.at_level(logging.WARNING), broker(tmp_path, device.broker.port):
        async with linked(device, lambda: wall[0]) as events:
            await until(lambda: caplog.records)
            assert "cannot be judged before this device's clock is set" in caplog.text
            wall[0] = time.time()
            await until(lambda: len(caplog.records) > 1)
            assert "the broker's certificate is not valid yet, or this device's clock is wrong" in caplog.text
            assert events.empty()


@needs_mosquitto
async def test_a_device_whose_certificate_has_expired_is_told_so_twice(tmp_path, device, authority, caplog):
    authority.issue(device.identity, "tls", "pi", -9 * DAY, -DAY)
    with broker(tmp_path, device.broker.port):
        with caplog.at_level(logging.WARNING):
            broker_tls(device)
        assert "is valid from" in caplog.text
        caplog.clear()
        context = broker_tls(device)
        assert context is not None
        caplog.clear()
        async with linked(device):
            await until(lambda: "this device's certificate (tls.pem) has expired" in caplog.text)


@needs_mosquitto
async def test_a_certificate_of_another_authority_is_told_so(tmp_path, device, stranger, caplog):
    stranger.issue(device.identity, "tls", "pi")
    with broker(tmp_path, device.broker.port):
        await refused(device, caplog, "the authority that signed this device's certificate")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_a_port_without_tls_is_named(device, caplog, answer):
    async def hang_up(reader, writer):
        await reader.read(1)
        writer.write(answer)
        writer.close()

    answering = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = answering.sockets[0].getsockname()[1]
    async with answering:
        said = await refused(replace(device, broker=replace(device.broker, port=port)), caplog)
    assert "speak TLS on this port" in said or "reset by peer" in said


def test_another_devices_certificate_is_refused_at_start(device, authority):
    authority.issue(device.identity, "tls", "kitchen")
    with pytest.raises(IdentityError, match="was issued for device 'kitchen', this is pi"):
        broker_tls(device)


def test_a_tls_key_that_others_can_read_is_refused_at_start(device):
    (device.identity / "tls.key").chmod(0o604)
    with pytest.raises(IdentityError, match=r"chmod 600 .*tls\.key"):
        broker_tls(device)


@pytest.mark.parametrize("name", ["tls.pem", "tls.key"])
def test_files_that_are_no_certificate_or_key_are_named(device, name):
    (device.identity / name).write_text("nonsense")
    with pytest.raises(IdentityError, match=name):
        broker_tls(device)


def test_an_authority_that_cannot_be_read_is_named(device):
    (device.identity / "ca.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"ca\.pem holds no certificates"):
        broker_tls(device)
    with pytest.raises(ConfigError, match=r"ca\.pem holds no certificates"):
        server_tls(device)


def test_only_the_fleets_authority_is_trusted_for_the_broker_and_the_systems_too_for_the_server(device):
    pinned, open_to_all = broker_tls(device), server_tls(device)
    assert pinned is not None
    assert open_to_all is not None
    assert [ca["subject"][0][0][1] for ca in pinned.get_ca_certs()] == ["fleet"]
    names = {ca["subject"][-1][-1][1] for ca in open_to_all.get_ca_certs()}
    assert "fleet" in names
    assert server_tls(replace(device, server="http://s")) is None
    assert broker_tls(replace(device, broker=BrokerUrl("b", 1883))) is None


def test_no_identity_says_where_to_get_one(device):
    with pytest.raises(IdentityError, match=r"does not exist, expected the folder .*: copy it from devices/pi of"):
        load_credentials(replace(device, identity=device.identity / "none"))


@pytest.mark.parametrize("name", ["fleet.json", "device.key"])
def test_each_missing_file_of_an_identity_is_named(device, name):
    (device.identity / name).unlink()
    with pytest.raises(IdentityError, match=f"{name} cannot be read: No such file"):
        load_credentials(device)


def test_an_error_that_is_not_of_tls_keeps_its_words():
    assert explain(OSError("Connection refused"), "the broker") == "Connection refused"
    assert explain(TimeoutError(), "the broker") == "TimeoutError"

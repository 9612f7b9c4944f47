"""Devices enrol themselves with a token: by HTTP, and by the device's own command against a real server."""

import asyncio
import re
import stat
from dataclasses import replace
from datetime import UTC, datetime
from unittest.mock import Mock

import httpx
import pytest
import tomllib
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edge_client import enrolment
from edge_client.__main__ import main as edge
from edge_client.config import load_config
from edge_client.enrolment_file import enrol_at_first_start, read_enrolment
from edge_client.errors import ConfigError, EnrolmentError
from server.app import create_app
from server.fleet.authority_folder import load_certificate
from server.fleet.fleet_folder import create_fleet
from server.http_server import HttpServer
from server.registry import REGISTRY_NAME, Registry
from wire_protocol.identity import PublicKeysText, load_fleet, new_identity


@pytest.fixture
def home(tmp_path):
    return create_fleet(tmp_path / "home", "home", ("broker.local",), datetime.now(UTC))


@pytest.fixture
def moment():
    return [0.0]


@pytest.fixture
def sources(sources, home, moment):
    registry = Registry.load(home.path / REGISTRY_NAME)
    return replace(sources, fleet=home, registry=registry, broker="mqtts://broker.local:8883", steady=lambda: moment[0])


def _request(name: str, key=None, common_name: str | None = None) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name or name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key or ec.generate_private_key(ec.SECP256R1()), SHA256()).public_bytes(Encoding.PEM).decode()


def _wanted(token: str, name: str, **changes: str) -> dict[str, str]:
    keys = PublicKeysText.of(new_identity().public)
    asked = {"token": token.partition(".")[0], "device": name, "csr": _request(name)}
    return asked | {"verifying": keys.verifying, "sealing": keys.sealing} | changes


async def _token(client: httpx.AsyncClient, **offer) -> str:
    return (await client.post("/api/v1/enrolments", json=offer)).raise_for_status().json()["token"]


async def test_a_device_that_shows_a_token_is_in_the_fleet(client, nobody, sources, home, store) -> None:
    token = await _token(client)
    wanted = _wanted(token, "kitchen")
    answer = await nobody.post("/api/v1/enrol", json=wanted)
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    enrolled = answer.json()
    certificate = x509.load_pem_x509_certificate(enrolled["certificate"].encode())
    certificate.verify_directly_issued_by(load_certificate(home.authority / "ca.pem"))
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "kitchen"
    assert enrolled["fleet"] == home.fleet_file.read_text()
    assert enrolled["broker"] == "mqtts://broker.local:8883"
    assert PublicKeysText.of(sources.registry.keys("kitchen")[0]).sealing == wanted["sealing"]
    assert (await client.get("/api/v1/devices/kitchen")).json()["standing"] == "enrolled"
    store.events.flush()
    assert ("device-enrolled", "kitchen") in [(event.kind, event.device) for event in store.events.list()]
    listed = (await client.get("/api/v1/enrolments")).json()["items"]
    assert [(one["devices"], one["left"], one["actor"]) for one in listed] == [(1, 0, "operator")]
    assert token.partition(".")[0] not in str(listed)


async def test_every_token_that_opens_nothing_is_answered_alike(client, nobody, store) -> None:
    used, other, gone = await _token(client), await _token(client, device="garden"), await _token(client)
    expired = await _token(client, hours=1e-9)
    assert (await nobody.post("/api/v1/enrol", json=_wanted(used, "kitchen"))).status_code == 201
    assert (await client.delete("/api/v1/enrolments/3")).status_code == 204
    assert (await client.delete("/api/v1/enrolments/9")).status_code == 404
    answers = [
        await nobody.post("/api/v1/enrol", json=_wanted(token, "attic"))
        for token in (used, other, gone, expired, "ffe_x")
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1


async def test_a_token_for_two_takes_two_in_however_many_come_at_once(client, nobody, sources) -> None:
    token = await _token(client, devices=2)
    asked = [nobody.post("/api/v1/enrol", json=_wanted(token, f"device-{number}")) for number in range(5)]
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*asked))
    assert statuses == [201, 201, 403, 403, 403]
    assert len(sources.registry.devices()) == 2


async def test_a_device_that_did_not_hear_the_answer_asks_again_with_the_token_that_it_used(
    client, nobody, sources
) -> None:
    token = await _token(client)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    wanted = _wanted(token, "kitchen", csr=_request("kitchen", keys[0]))
    answers = await asyncio.gather(*[nobody.post("/api/v1/enrol", json=wanted) for _ in range(3)])
    again = await nobody.post("/api/v1/enrol", json=wanted | {"csr": _request("kitchen", keys[0])})
    assert [answer.status_code for answer in (*answers, again)] == [201] * 4
    certificate = x509.load_pem_x509_certificate(again.json()["certificate"].encode())
    assert certificate.public_key() == keys[0].public_key()
    another = await nobody.post("/api/v1/enrol", json=wanted | {"csr": _request("kitchen", keys[1])})
    assert another.status_code == 403
    assert (await client.get("/api/v1/enrolments")).json()["items"][0]["left"] == 0
    assert len(sources.registry.devices()) == 1
    assert (await client.delete("/api/v1/enrolments/1")).status_code == 204
    assert (await nobody.post("/api/v1/enrol", json=wanted)).status_code == 403


async def test_a_try_that_failed_leaves_the_token(client, nobody, sources) -> None:
    token = await _token(client, devices=2)
    first = _wanted(token, "kitchen")
    assert (await nobody.post("/api/v1/enrol", json=first)).status_code == 201
    taken = await nobody.post("/api/v1/enrol", json=_wanted(token, "kitchen"))
    assert (taken.status_code, "other keys" in taken.json()["detail"]) == (409, True)
    again = await nobody.post("/api/v1/enrol", json=first)
    assert again.status_code == 201
    assert (await nobody.post("/api/v1/enrol", json=_wanted(token, "garden"))).status_code == 201
    assert (await nobody.post("/api/v1/enrol", json=_wanted(token, "attic"))).status_code == 403


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"csr": "nonsense"}, "csr must be a certificate request"),
        ({"csr": _request("other")}, "common name of csr"),
        ({"csr": _request("kitchen", rsa.generate_private_key(65537, 2048))}, "P-256"),
        ({"verifying": "AAAA"}, "public keys must be"),
        ({"device": "server", "csr": _request("server")}, "device must be"),
        ({"device": "a/b"}, "body.device"),
    ],
)
async def test_what_cannot_be_enrolled_is_named_and_costs_nothing(client, nobody, changes, words) -> None:
    token = await _token(client)
    answer = await nobody.post("/api/v1/enrol", json=_wanted(token, "kitchen", **changes))
    assert (answer.status_code, words in answer.json()["detail"]) == (422, True)
    assert (await nobody.post("/api/v1/enrol", json=_wanted(token, "kitchen"))).status_code == 201


async def test_who_tries_too_often_waits(nobody, moment) -> None:
    wanted = _wanted("ffe_guess", "kitchen")
    statuses = [(await nobody.post("/api/v1/enrol", json=wanted)).status_code for _ in range(22)]
    assert statuses == [403] * 20 + [429] * 2
    answer = await nobody.post("/api/v1/enrol", json=wanted)
    assert answer.headers["retry-after"] == "2"
    moment[0] += 2.0
    assert (await nobody.post("/api/v1/enrol", json=wanted)).status_code == 403


async def test_a_revoked_device_is_out_for_good(client, nobody, sources, home) -> None:
    token = await _token(client, devices=2)
    wanted = _wanted(token, "kitchen")
    await nobody.post("/api/v1/enrol", json=wanted)
    for _ in range(2):
        assert (await client.post("/api/v1/devices/kitchen/revoke")).json()["standing"] == "revoked"
    assert sources.registry.is_revoked("kitchen")
    revoked = x509.load_pem_x509_crl((home.broker / "crl.pem").read_bytes())
    assert len(revoked) == 1
    assert (await nobody.post("/api/v1/enrol", json=wanted)).status_code == 409
    assert (await client.post("/api/v1/devices/nobody/revoke")).status_code == 404


@pytest.fixture
async def server(sources):
    server = HttpServer(create_app(sources), "127.0.0.1", 0)
    await server.start()
    yield server.url
    await server.stop()


async def test_the_devices_command(client, server, sources, tmp_path, capsys) -> None:
    out = tmp_path / "kitchen"
    token = await _token(client, broker="mqtts://10.0.0.1:8883")
    asked = ["enrol", "--server", server, "--device", "kitchen", "--out", str(out)]

    async def command(token: str) -> tuple[int, str]:
        status = await asyncio.to_thread(edge, [*asked, "--token", token])
        return status, "".join(capsys.readouterr())

    assert (await command("nonsense"))[0] == 2
    wrong = await command("ffe_wrong.mark")
    assert (wrong[0], "unknown, used up" in wrong[1]) == (2, True)
    secret = token.partition(".")[0]
    forged = await command(f"{secret}.another-fingerprint")
    assert (forged[0], "not the server" in forged[1]) == (2, True)
    assert not (out / "device.toml").exists()
    status, said = await command(await _token(client, broker="mqtts://10.0.0.1:8883"))
    assert (status, "is in the fleet home" in said) == (0, True)
    config = tomllib.loads((out / "device.toml").read_text())
    assert (config["device"], config["broker"], config["server"]) == ("kitchen", "mqtts://10.0.0.1:8883", server)
    for name in ("device.key", "tls.key"):
        assert stat.S_IMODE((out / "identity" / name).stat().st_mode) == 0o600
    assert load_fleet(out / "identity/fleet.json").name == "home"
    assert (await command(token))[0] == 2


async def test_a_device_that_lost_power_before_it_kept_the_answer_enrols_at_its_next_start(
    client, server, tmp_path, monkeypatch
) -> None:
    file = tmp_path / "enrol.toml"
    file.write_text(f'server = "{server}"\ndevice = "kitchen"\ntoken = "{await _token(client)}"\n')
    monkeypatch.setattr(enrolment, "_keep", Mock(side_effect=OSError("the power is gone")))
    with pytest.raises(EnrolmentError, match="the power is gone"):
        await asyncio.to_thread(enrol_at_first_start, file)
    monkeypatch.undo()
    assert (await asyncio.to_thread(enrol_at_first_start, file)).startswith("kitchen is in the fleet home")
    assert load_config(tmp_path / "device.toml").device == "kitchen"


async def test_a_device_enrols_at_its_first_start_with_the_file_it_finds(client, server, tmp_path) -> None:
    file = tmp_path / "enrol.toml"
    token = await _token(client, broker="mqtts://10.0.0.1:8883")
    settings = "threads = 3\n[limits]\nmemory_mb = 150\npause_on_battery = true\n"
    file.write_text(f'server = "{server}"\ndevice = "kitchen"\ntoken = "{token}"\n{settings}')
    words = await asyncio.to_thread(enrol_at_first_start, file)
    assert words.startswith("kitchen is in the fleet home")
    assert not file.exists()
    config = load_config(tmp_path / "device.toml")
    assert (config.device, config.threads, config.limits.memory_mb, config.limits.pause_on_battery) == (
        "kitchen", 3, 150, True,
    )  # fmt: skip
    file.write_text("left over from a power cut")
    assert enrol_at_first_start(file) is None
    assert not file.exists()


async def test_a_file_that_cannot_enrol_is_named_and_stays(server, tmp_path, capsys) -> None:
    file = tmp_path / "enrol.toml"
    file.write_text(f'server = "{server}"\ndevice = "kitchen"\ntoken = "ffe_wrong.mark"\n')
    assert await asyncio.to_thread(edge, ["--config", str(tmp_path / "device.toml")]) == 2
    assert "unknown, used up" in capsys.readouterr().err
    assert file.exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("token", "tokens", "key must be one of server, device, token, ca_file, data,"),
        ('"kitchen"', "7", "device must be a string, got 'int'"),
        ('"ffe_a.b"', '"secret"', "token must be ffe_SECRET.FINGERPRINT"),
        ("http:", "ftp:", "server must be http://"),
        ("threads = 3", "threads = 0", 'threads must be 1 to 256, or "auto", got 0'),
        ("threads = 3", 'ca_file = "absent"', "a file with certificates"),
        ("threads = 3", "[limits]\nmemory_mb = 0", "limits.memory_mb must be above 0"),
        ("threads = 3", 'broker = "mqtts://x"', "key must be one of"),
    ],
)
def test_what_is_wrong_in_an_enrolment_file_is_named_before_the_token_is_shown(tmp_path, old, new, words) -> None:
    text = 'server = "http://10.0.0.1:8765"\ndevice = "kitchen"\ntoken = "ffe_a.b"\nthreads = 3\n'
    file = tmp_path / "enrol.toml"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))}.*{re.escape(words)}") as raised:
        read_enrolment(file)
    assert "secret" not in str(raised.value)

"""`fisherfleet doctor` against real brokers, each with one thing wrong, which it must name."""

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from devices.doctor.__main__ import main
from devices.doctor.access import examine_access
from devices.doctor.delivery import Bench, examine_burst, examine_queue, examine_size
from devices.doctor.reaching import examine_reach
from devices.doctor.seats import Seat, Seats, device_seats, fleet_seats, plain_seats
from devices.doctor.standing import Memory, examine_persistence, examine_retained, examine_will
from edge_client.findings import Finding, Verdicts, describe, exit_status, report
from server.fleet.authority_folder import AuthorityFolder, ensure_credentials
from server.fleet.certificates import Subject, Validity
from server.fleet.fleet_folder import create_fleet
from server.fleet.membership import revoke_device
from wire_protocol.broker_url import parse_broker_url

SECONDS = 5.0
PAST = Validity(datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC))


def bench_of(seats: Seats) -> Bench:
    return Bench(seats.device, seats.server, SECONDS)


def plain_bench(broker) -> Bench:
    return bench_of(plain_seats(parse_broker_url(f"mqtt://127.0.0.1:{broker.port}"), None))


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.level for finding in findings}


def told(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_the_generated_configuration_has_nothing_wrong(fleet, secured, capsys):
    broker = secured()
    capsys.readouterr()
    assert main(["--broker", broker.url, "--fleet", str(fleet.path), "--json"]) == 0
    first = told(capsys)
    assert first["verdict"] == "good"
    assert [one for one in first["findings"] if one["level"] not in ("good", "unknown")] == []
    tried = {one["check"] for one in first["findings"]}
    assert tried == {
        "TLS",
        "connection",
        "delivery",
        "size",
        "order",
        "retained",
        "last will",
        "access",
        "identity",
        "queue",
        "persistence",
    }
    assert "a mark was left" in first["findings"][-1]["text"]
    assert main(["--broker", broker.url, "--identity", str(fleet.identity("kitchen"))]) == 0
    assert "run this with --fleet" in capsys.readouterr().out


def test_a_broker_that_forgets_is_found_at_the_second_visit(fleet, secured, capsys):
    broker = secured(persistence="false")
    command = ["--broker", broker.url, "--fleet", str(fleet.path), "--json"]
    assert main(command) == 0
    broker.stop()
    broker.start()
    capsys.readouterr()
    assert main(command) == 1
    finding = told(capsys)["findings"][-1]
    assert (finding["check"], finding["level"]) == ("persistence", "weak")
    assert "persistence true" in finding["advice"]


async def test_a_broker_that_remembers_is_known_by_its_uptime(fleet, secured, tmp_path):
    broker, memory, now = secured(), Memory(tmp_path / "note"), datetime.now(UTC).timestamp()
    with fleet_seats(parse_broker_url(broker.url), fleet.path, None) as seats:
        await examine_persistence(bench_of(seats), memory, now)
        (still,) = await examine_persistence(bench_of(seats), memory, now + 1)
        assert still.level == "unknown"
        broker.stop()
        broker.start()
        (after,) = await examine_persistence(bench_of(seats), memory, now + 3600)
        assert (after.level, "outlived a restart" in after.text) == ("good", True)


@pytest.mark.parametrize(
    ("setting", "fate"),
    [("message_size_limit", "acknowledged and dropped"), ("max_packet_size", "answered by a disconnection")],
)
async def test_a_limit_of_64_kb_is_found_and_how_it_is_enforced(plain, setting, fate):
    bench = plain_bench(plain(**{setting: "65536"}))
    delivered, size = await examine_size(bench)
    assert (delivered.level, size.level) == ("good", "bad")
    found = 64 if setting == "message_size_limit" else 63
    assert size.text == f"messages above {found} KB are {fate}; devices send 124 KB"
    assert "max_packet_size 262144" in size.advice


async def test_a_limit_just_above_what_devices_send_is_no_fault(plain):
    _, size = await examine_size(plain_bench(plain(message_size_limit="130000")))
    assert size.level == "good"


async def test_a_broker_that_forbids_retained_messages_is_told(plain):
    bench = plain_bench(plain(retain_available="false"))
    (retained,) = await examine_retained(bench)
    (will,) = await examine_will(bench)
    assert (retained.level, will.level) == ("bad", "bad")
    assert "retain_available true" in retained.advice
    assert "plans cannot be published" in retained.text


async def test_a_queue_that_drops_is_told_with_its_length(plain):
    (queue,) = await examine_queue(plain_bench(plain(max_queued_messages="100")))
    assert queue.level == "weak"
    assert " 100 were kept" in queue.text
    assert "max_queued_messages 100000" in queue.advice


async def test_without_rules_everybody_can_do_everything_and_that_is_told(plain):
    broker = plain()
    seats = plain_seats(parse_broker_url(f"mqtt://127.0.0.1:{broker.port}"), None)
    findings = await examine_access(seats, bench_of(seats))
    weak = [finding.text for finding in findings if finding.level == "weak"]
    assert len(weak) == 6
    assert "a device can send updates as another device" in weak
    assert "a device can read what other devices send" in weak


async def test_rules_that_forbid_what_a_device_needs_are_told(fleet, secured):
    broker = secured()
    acl = fleet.broker / "acl"
    kept = [line for line in acl.read_text().splitlines() if not line.startswith("pattern write fl/v1/up")]
    acl.write_text("\n".join(kept) + "\n")
    broker.reload()
    with fleet_seats(parse_broker_url(broker.url), fleet.path, None) as seats:
        (delivery,) = await examine_size(bench_of(seats))
    assert delivery.level == "bad"
    assert "access rules forbid it" in delivery.advice


async def test_a_certificate_that_does_not_bind_its_name_is_told(fleet, secured):
    broker = secured(use_username_as_clientid="false", require_certificate="true")
    with fleet_seats(parse_broker_url(broker.url), fleet.path, None) as seats:
        findings = await examine_access(seats, bench_of(seats))
    (weak,) = [finding for finding in findings if finding.level == "weak"]
    assert "using its client id" in weak.text


async def test_messages_sent_at_once_arrive_in_order(plain):
    (order,) = await examine_burst(plain_bench(plain()))
    assert order.text == "40 messages sent at once arrive, in order"


def test_an_expired_broker_certificate_is_told_with_its_date(fleet, secured, capsys):
    (fleet.broker / "tls.pem").unlink()
    hosts = ("127.0.0.1",)
    ensure_credentials(AuthorityFolder.open(fleet.authority), fleet.broker, Subject("broker", hosts), PAST)
    broker = secured()
    capsys.readouterr()
    assert main(["--broker", broker.url, "--fleet", str(fleet.path)]) == 2
    printed = capsys.readouterr().out
    assert "FAIL  TLS  the broker's certificate ended on 2021-01-01" in printed
    assert "fisherfleet fleet renew FOLDER broker" in printed


def test_a_broker_of_another_authority_is_told(fleet, secured, tmp_path, capsys):
    broker = secured()
    create_fleet(tmp_path / "other", "other", ("127.0.0.1",), datetime.now(UTC))
    capsys.readouterr()
    assert main(["--broker", broker.url, "--fleet", str(tmp_path / "other")]) == 2
    assert "not signed by the authority trusted here" in capsys.readouterr().out


def test_a_certificate_for_another_host_is_told_with_its_hosts(fleet, secured, capsys):
    broker = secured()
    capsys.readouterr()
    assert main(["--broker", f"mqtts://127.0.0.2:{broker.port}", "--fleet", str(fleet.path)]) == 2
    printed = capsys.readouterr().out
    assert "the broker's certificate is for 127.0.0.1, localhost, not for 127.0.0.2" in printed
    assert "--host 127.0.0.2" in printed


def test_a_broker_certificate_near_its_end_is_a_weakness(fleet, secured):
    broker = secured()
    with fleet_seats(parse_broker_url(broker.url), fleet.path, None) as seats:
        soon = datetime.now(UTC) + timedelta(days=3 * 365 - 10)
        seat = Seat(seats.device.broker, seats.device.name, seats.device.tls)
        findings = asyncio.run(examine_reach(seat, SECONDS, soon))
    assert levels(findings) == {"TLS": "weak", "connection": "good"}


def test_a_revoked_device_and_one_past_its_date_are_told(fleet, secured, capsys):
    revoke_device(fleet, "kitchen", datetime.now(UTC))
    ensure_credentials_in(fleet, "garden")
    broker = secured()
    capsys.readouterr()
    for name, expected in (("kitchen", "certificate was revoked"), ("garden", "garden ended on 2021-01-01")):
        assert main(["--broker", broker.url, "--identity", str(fleet.identity(name))]) == 2
        assert expected in capsys.readouterr().out


def ensure_credentials_in(fleet, name: str) -> None:
    (fleet.identity(name) / "tls.pem").unlink()
    ensure_credentials(AuthorityFolder.open(fleet.authority), fleet.identity(name), Subject(name), PAST)


def test_without_a_certificate_the_broker_asks_for_one(fleet, secured, capsys):
    broker = secured()
    capsys.readouterr()
    assert main(["--broker", broker.url, "--ca-file", str(fleet.server / "ca.pem")]) == 2
    assert "wants a certificate and got none" in capsys.readouterr().out
    assert main(["--broker", f"mqtt://127.0.0.1:{broker.port}"]) == 2
    assert "a port for TLS needs mqtts://" in capsys.readouterr().out


def test_tls_towards_a_plain_port_is_told(plain, fleet, capsys):
    broker = plain()
    assert main(["--broker", broker.url, "--fleet", str(fleet.path)]) == 2
    assert "mqtt" in capsys.readouterr().out


def test_a_wrong_password_is_told(plain, tmp_path, capsys):
    (tmp_path / "passwords").write_text("")
    broker = plain(allow_anonymous="false", password_file=str(tmp_path / "passwords"))
    assert main(["--broker", f"mqtt://me:wrong@127.0.0.1:{broker.port}"]) == 2
    printed = capsys.readouterr().out
    assert "it lets this user not connect" in printed
    assert "wrong" not in printed


def test_nothing_there_an_unknown_name_and_no_mqtt_are_told(capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert main(["--broker", f"mqtt://127.0.0.1:{port}", "--timeout", "0.2"]) == 2
        assert "did not answer within 0.2 s" in capsys.readouterr().out
    assert main(["--broker", f"mqtt://127.0.0.1:{port}"]) == 2
    assert "nothing listens on" in capsys.readouterr().out
    assert main(["--broker", "mqtt://no-such-host.invalid"]) == 2
    assert "the name no-such-host.invalid is not known here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--broker", "tcp://x"], "broker must be mqtt://"),
        (["--broker", "mqtts://x", "--fleet", "/nowhere"], "holds no fleet"),
        (["--broker", "mqtts://x", "--identity", "/nowhere"], "holds no tls.pem"),
        (["--broker", "mqtt://x", "--timeout", "0"], "timeout must be above 0"),
        (["--broker", "mqtts://x", "--ca-file", "/nowhere"], "cannot be used"),
    ],
)
def test_mistakes_are_named(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_doctor_leaves_no_key_behind(fleet, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with fleet_seats(parse_broker_url("mqtts://127.0.0.1"), fleet.path, None) as seats:
        assert seats.device.certificate_ends - datetime.now(UTC) < timedelta(hours=2)
        (place,) = tmp_path.glob("fisherfleet-doctor-*")
        assert {path.stat().st_mode & 0o777 for path in place.rglob("*.key")} == {0o600}
    assert list(tmp_path.glob("fisherfleet-doctor-*")) == []


def test_a_device_seat_is_named_by_its_certificate(fleet):
    seats = device_seats(parse_broker_url("mqtts://127.0.0.1"), fleet.identity("garden"), None)
    assert (seats.device.name, seats.server) == ("garden", None)


@pytest.mark.parametrize(
    ("found", "status", "verdict"),
    [
        (["good"], 0, "good"),
        (["good", "unknown"], 0, "good"),
        (["weak", "good"], 1, "weak"),
        (["weak", "bad"], 2, "bad"),
    ],
)
def test_the_verdict_is_that_of_the_worst_finding(found, status, verdict):
    made = report("mqtt://x", [Finding("size", level, "text", "do this") for level in found])
    assert (exit_status(made), made.verdict) == (status, verdict)
    assert describe(made, Verdicts("", "", "")).count("-> do this") == len(found)


def test_notes_that_cannot_be_read_are_as_none(tmp_path: Path):
    (tmp_path / "note").write_text("{")
    assert Memory(tmp_path / "note").recall("mqtt://x") is None
    assert Memory(None).recall("mqtt://x") is None

"""`fisherfleet fleet`: what each command leaves on disk, that it can be repeated, and that it says what to do."""

import json
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from devices.provisioning import enrolment
from devices.provisioning.__main__ import main
from devices.provisioning.enrolment import Surroundings, add_devices
from server.fleet import authority_folder, durable_files, fleet_folder, membership
from server.fleet.authority_folder import load_certificate
from server.fleet.certificates import common_name, hosts_of
from server.fleet.durable_files import write_file
from server.fleet.fleet_folder import create_fleet
from server.registry import decode_registry
from wire_protocol.envelope import Context, open_sealed, seal, sign, verify
from wire_protocol.errors import ProtocolError
from wire_protocol.identity import load_fleet, load_identities

CONTEXT = Context("plan", "home", "run-1")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    assert main(["init", str(tmp_path / "home"), "--host", "broker.local", "--host", "192.168.1.10"]) == 0
    return tmp_path / "home"


def add(home: Path, *names: str) -> None:
    assert main(["add", str(home), *names]) == 0


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def registry(home: Path):
    return decode_registry((home / "devices.json").read_bytes())


def revoked_serials(home: Path) -> set[int]:
    return {entry.serial_number for entry in x509.load_pem_x509_crl((home / "broker/crl.pem").read_bytes())}


def test_init_and_add_make_what_server_broker_and_devices_need(home, capsys):
    add(home, "kitchen", "garden")
    kitchen = home / "devices/kitchen"
    assert (kitchen / "identity/fleet.json").read_bytes() == (home / "fleet.json").read_bytes()
    fleet, operator = load_fleet(home / "fleet.json"), load_identities(home / "operator.key")
    (device,) = load_identities(kitchen / "identity/device.key")
    assert fleet.name == "home"
    assert fleet.operator == tuple(one.public for one in operator)
    assert registry(home)["kitchen"].keys == (device.public,)
    assert list(registry(home)) == ["garden", "kitchen"]
    assert hosts_of(load_certificate(home / "broker/tls.pem"))[:2] == ("broker.local", "192.168.1.10")
    names = [common_name(load_certificate(home / place / "tls.pem")) for place in ("server", kitchen / "identity")]
    assert names == ["server", "kitchen"]
    assert (kitchen / "device.toml").read_text().splitlines() == [
        'device = "kitchen"',
        'broker = "mqtts://broker.local:8883"',
        'server = "http://broker.local:8765"',
        'identity = "identity"',
        'data = "data.npz"',
    ]
    assert f"Copy {kitchen} to kitchen" in capsys.readouterr().out


def test_private_files_are_the_owners_alone_and_never_printed(tmp_path, capsys):
    before = os.umask(0)
    try:
        main(["init", str(tmp_path / "home")])
        add(tmp_path / "home", "kitchen")
        main(["rotate", str(tmp_path / "home"), "kitchen"])
        main(["list", str(tmp_path / "home"), "--json"])
    finally:
        os.umask(before)
    private = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]
    assert len(private) == 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert "PRIVATE" not in "".join(capsys.readouterr())


def test_every_command_repeated_changes_nothing(home, capsys):
    add(home, "kitchen", "garden")
    for command in (
        ["init", str(home)],
        ["init", str(home), "--name", "home", "--host", "broker.local", "--host", "192.168.1.10"],
        ["add", str(home), "kitchen", "--broker", "mqtts://elsewhere"],
        ["list", str(home)],
        ["rotate", str(home), "operator"],
        ["rotate", str(home), "kitchen"],
        ["rotate", str(home), "kitchen", "--finish"],
        ["rotate", str(home), "operator", "--finish"],
        ["revoke", str(home), "garden"],
        ["renew", str(home)],
    ):
        assert main(command) == 0
        once = content(home)
        assert main(command) == 0
        assert content(home) == once, command


def test_another_name_for_a_fleet_that_is_there_is_refused(home, capsys):
    before = content(home)
    assert main(["init", str(home), "--name", "office"]) == 2
    assert "name must be 'home'" in capsys.readouterr().err
    assert content(home) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", "{}", "--name", "a b"], "name must be 1 to 64 letters"),
        (["init", "{}", "--host", "a b"], "host must be a host name or an IP address, got 'a b'"),
        (["init", "{}", "--days", "0"], "days must be above 0"),
        (["add", "{}", "kitchen"], "holds no fleet; make one with: fisherfleet fleet init"),
        (["list", "{}"], "holds no fleet"),
    ],
)
def test_mistakes_are_named_and_leave_nothing_behind(arguments, message, tmp_path, capsys):
    folder = tmp_path / "fleet"
    assert main([text.format(folder) for text in arguments]) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "server"], "device must be other than operator, broker, server, doctor"),
        (["add", "server-1"], "not starting with server- or doctor-"),
        (["add", "../x"], "device must be 1 to 64 letters"),
        (["add", "good", "--broker", "tcp://x"], "broker must be mqtt://"),
        (["revoke", "nobody"], "device must be a device of the fleet (kitchen), got 'nobody'"),
        (["rotate", "nobody"], "name must be operator or one of kitchen, got 'nobody'"),
        (["renew", "nobody"], "name must be one of broker, server, kitchen, got 'nobody'"),
    ],
)
def test_mistakes_about_devices_change_nothing(home, arguments, message, capsys):
    add(home, "kitchen")
    before = content(home)
    command, *rest = arguments
    assert main([command, str(home), *rest]) == 2
    assert message in capsys.readouterr().err
    assert content(home) == before


def test_a_key_that_others_can_read_is_refused(home, capsys):
    (home / "ca/ca.key").chmod(0o644)
    assert main(["add", str(home), "kitchen"]) == 2
    assert "chmod 600" in capsys.readouterr().err


def test_revoking_takes_keys_and_all_certificates_ever_issued(home, capsys):
    add(home, "kitchen", "garden")
    path = home / "devices/kitchen/identity/tls.pem"
    first = load_certificate(path).serial_number
    assert main(["renew", str(home), "kitchen"]) == 0
    second = load_certificate(path).serial_number
    assert main(["revoke", str(home), "kitchen"]) == 0
    assert revoked_serials(home) == {first, second}
    assert registry(home)["kitchen"].revoked
    assert not registry(home)["garden"].revoked
    assert f"copy {home / 'broker/crl.pem'} to the broker" in capsys.readouterr().out
    for refused in (["add", str(home), "kitchen"], ["rotate", str(home), "kitchen"]):
        assert main(refused) == 2
        assert "kitchen was revoked" in capsys.readouterr().err


def test_a_revoked_name_can_go_to_a_new_device_with_new_keys(home):
    add(home, "kitchen")
    old = registry(home)["kitchen"].keys
    stolen = load_certificate(home / "devices/kitchen/identity/tls.pem")
    assert main(["revoke", str(home), "kitchen"]) == 0
    assert main(["add", str(home), "kitchen", "--replace"]) == 0
    entry = registry(home)["kitchen"]
    assert not entry.revoked
    assert set(entry.keys).isdisjoint(old)
    fresh = load_certificate(home / "devices/kitchen/identity/tls.pem")
    assert fresh.public_key() != stolen.public_key()
    assert revoked_serials(home) == {stolen.serial_number}


def test_while_the_operators_keys_change_devices_with_old_and_new_files_understand(home):
    add(home, "kitchen")
    (device,) = load_identities(home / "devices/kitchen/identity/device.key")
    old = load_fleet(home / "fleet.json")
    assert main(["rotate", str(home), "operator"]) == 0
    between, operator = load_fleet(home / "fleet.json"), load_identities(home / "operator.key")
    assert len(between.operator) == len(operator) == 2
    assert load_fleet(home / "devices/kitchen/identity/fleet.json") == between
    plan = sign(b"plan", CONTEXT, operator)
    for pinned in (old, between):
        assert verify(plan, CONTEXT, pinned.operator) == b"plan"
        sealed = seal(b"update", CONTEXT, [device], pinned.operator[0])
        assert open_sealed(sealed, CONTEXT, operator, registry(home)["kitchen"].keys) == b"update"
    assert main(["rotate", str(home), "operator", "--finish"]) == 0
    after, last = load_fleet(home / "fleet.json"), load_identities(home / "operator.key")
    assert after.operator == between.operator[:1]
    plan = sign(b"plan", CONTEXT, last)
    assert verify(plan, CONTEXT, between.operator) == b"plan"
    with pytest.raises(ProtocolError, match="no valid signature"):
        verify(plan, CONTEXT, old.operator)


def test_while_a_devices_keys_change_the_server_and_it_understand_before_and_after_the_copy(home):
    add(home, "kitchen")
    key, certificate = home / "devices/kitchen/identity/device.key", home / "devices/kitchen/identity/tls.pem"
    operator = load_identities(home / "operator.key")
    before, old_certificate = load_identities(key), load_certificate(certificate)
    assert main(["rotate", str(home), "kitchen"]) == 0
    between = load_identities(key)
    for held in (before, between):
        known = registry(home)["kitchen"].keys
        update = seal(b"update", CONTEXT, held[:1], operator[0].public)
        assert open_sealed(update, CONTEXT, operator, known) == b"update"
        slice_ = seal(b"slice", CONTEXT, operator, known[0])
        assert open_sealed(slice_, CONTEXT, held, [one.public for one in operator]) == b"slice"
    assert revoked_serials(home) == set()
    assert main(["rotate", str(home), "kitchen", "--finish"]) == 0
    assert registry(home)["kitchen"].keys == (between[0].public,)
    assert revoked_serials(home) == {old_certificate.serial_number}
    stale = seal(b"update", CONTEXT, before, operator[0].public)
    with pytest.raises(ProtocolError, match="no valid signature"):
        open_sealed(stale, CONTEXT, operator, registry(home)["kitchen"].keys)


def test_keys_can_be_changed_after_the_device_took_its_secrets_along(home):
    add(home, "kitchen")
    (home / "devices/kitchen/identity/device.key").unlink()
    (home / "devices/kitchen/identity/tls.key").unlink()
    assert main(["add", str(home), "kitchen"]) == 0
    assert not (home / "devices/kitchen/identity/device.key").exists()
    assert main(["renew", str(home), "kitchen"]) == 0
    assert main(["rotate", str(home), "kitchen"]) == 0
    (fresh,) = load_identities(home / "devices/kitchen/identity/device.key")
    assert registry(home)["kitchen"].keys[1] == fresh.public


def test_renewing_keeps_keys_and_takes_what_is_near_its_end(tmp_path, capsys):
    now = datetime.now(UTC)
    home = tmp_path / "home"
    folder = create_fleet(home, "home", (), now, days=400)
    add_devices(folder, ["kitchen"], Surroundings(days=30), now)
    add_devices(folder, ["garden"], Surroundings(days=100), now)
    before = {path: load_certificate(path) for path in home.rglob("tls.pem")}
    assert main(["renew", str(home), "--days", "500"]) == 0
    said = capsys.readouterr().out
    changed = {path for path in before if load_certificate(path) != before[path]}
    assert changed == {home / "devices/kitchen/identity/tls.pem"}
    assert f"Copy {home / 'devices/kitchen/identity/tls.pem'} to the device kitchen" in said
    fresh = load_certificate(home / "devices/kitchen/identity/tls.pem")
    assert fresh.not_valid_after_utc - now > timedelta(days=499)
    assert fresh.public_key() == before[home / "devices/kitchen/identity/tls.pem"].public_key()
    assert main(["renew", str(home), "broker"]) == 0
    assert "let the broker read it again" in capsys.readouterr().out


def test_other_hosts_give_the_broker_a_new_certificate_for_the_same_key(home):
    before = load_certificate(home / "broker/tls.pem")
    assert main(["init", str(home), "--host", "10.0.0.5"]) == 0
    after = load_certificate(home / "broker/tls.pem")
    assert hosts_of(after) == ("10.0.0.5", "localhost", "127.0.0.1")
    assert after.public_key() == before.public_key()


def test_list_says_who_is_revoked_rotating_and_near_an_end(home, capsys):
    add(home, "attic", "garden", "kitchen")
    main(["add", str(home), "cellar", "--days", "20"])
    main(["revoke", str(home), "garden"])
    main(["rotate", str(home), "kitchen"])
    capsys.readouterr()
    assert main(["list", str(home)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["garden"].endswith("revoked")
    assert lines["kitchen"].endswith("keys are being changed")
    assert "renew it" in lines["cellar"]
    assert lines["attic"].split()[1] == "1"
    main(["list", str(home), "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert [device["name"] for device in listed["devices"]] == ["attic", "cellar", "garden", "kitchen"]
    assert [device["revoked"] for device in listed["devices"]] == [False, False, True, False]


class PowerCutError(Exception):
    """Nothing after this was written."""


@pytest.fixture
def cut_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the n-th write of a file, counted from 0, the one that never happens."""

    def arm(count: int) -> None:
        left = [count]

        def guarded(original):
            def write(*arguments, **options):
                if left[0] == 0:
                    raise PowerCutError
                left[0] -= 1
                return original(*arguments, **options)

            return write

        for module in (authority_folder, enrolment, fleet_folder, membership):
            monkeypatch.setattr(module, "write_file", guarded(durable_files.write_file))
        monkeypatch.setattr(enrolment, "save_identities", guarded(fleet_folder.save_identities))

    yield arm
    monkeypatch.undo()


def test_whatever_write_is_cut_short_the_same_command_completes_it(tmp_path, cut_after):
    now, cuts = datetime.now(UTC), 0
    while True:
        home = tmp_path / f"home-{cuts}"
        cut_after(cuts)
        try:
            add_devices(create_fleet(home, "home", (), now), ["kitchen"], Surroundings(), now)
            finished = True
        except PowerCutError:
            finished = False
        cut_after(-1)
        folder = create_fleet(home, "home", (), now)
        add_devices(folder, ["kitchen"], Surroundings(), now)
        (device,) = load_identities(folder.identity("kitchen") / "device.key")
        assert registry(home)["kitchen"].keys == (device.public,)
        for place in (folder.broker, folder.server, folder.identity("kitchen")):
            authority = authority_folder.AuthorityFolder.open(folder.authority).authority
            certificate, key = load_certificate(place / "tls.pem"), authority_folder.load_key(place / "tls.key")
            assert authority.has_issued(certificate)
            assert certificate.public_key() == key.public_key()
        assert (folder.device("kitchen") / "device.toml").exists()
        cuts += 1
        if finished:
            break
    assert cuts > 20


@pytest.mark.parametrize("count", range(12))
def test_a_revocation_cut_short_and_repeated_is_whole(tmp_path, cut_after, count):
    now, home = datetime.now(UTC), tmp_path / "home"
    folder = create_fleet(home, "home", (), now)
    add_devices(folder, ["kitchen"], Surroundings(), now)
    serial = load_certificate(folder.identity("kitchen") / "tls.pem").serial_number
    cut_after(count)
    try:
        membership.revoke_device(folder, "kitchen", now)
    except PowerCutError:
        cut_after(-1)
        membership.revoke_device(folder, "kitchen", now)
    assert revoked_serials(home) == {serial}
    assert registry(home)["kitchen"].revoked


def test_a_written_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "file"
    assert write_file(path, b"one")
    assert not write_file(path, b"one")
    assert write_file(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

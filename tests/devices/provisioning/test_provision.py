"""`fisherfleet devices provision`: what a device's folder holds, for one and for a hundred, and what is refused."""

import shutil
import stat
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import tomllib

from devices.command_line import main
from devices.flashing.board_file import Board, read_board
from devices.flashing.device_folder import device_files
from devices.flashing.installation import Wifi
from edge_client.config import load_config
from edge_client.updates.consent import Consent
from server.fleet.authority_folder import load_certificate
from server.fleet.certificates import common_name
from server.fleet.fleet_folder import FleetFolder, create_fleet, read_registry
from server.fleet.membership import revoke_device
from wire_protocol.identity import load_fleet, load_identities

HEAD = "name,profile,data,hostname,timezone,wifi_ssid,wifi_password,country\n"


@pytest.fixture
def home(tmp_path: Path) -> FleetFolder:
    return create_fleet(tmp_path / "home", "home", ("fleet.local",), datetime.now(UTC))


def provision(home: FleetFolder, *words: object) -> int:
    return main(["devices", "provision", "--fleet", str(home.path), *map(str, words)])


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def shares(tmp_path: Path) -> Path:
    folder = tmp_path / "shares"
    folder.mkdir()
    for number, name in enumerate(("kitchen", "garden")):
        np.savez(folder / f"{name}.npz", x=np.full((2, 3), number, np.float32), y=[0, 1])
    return folder


def test_a_folder_has_keys_certificate_pinned_operator_and_what_its_board_may_spend(home, shares, tmp_path, capsys):
    out = tmp_path / "cards"
    words = ("--profile", "raspberry-pi-4", "--server", "https://fleet.local:8443", "--data", shares, "--out", out)
    assert provision(home, "kitchen", "garden", *words) == 0
    said = capsys.readouterr()
    kitchen = out / "kitchen"
    config = load_config(kitchen / "device.toml")
    assert (config.device, config.server, str(config.broker)) == (
        "kitchen", "https://fleet.local:8443", "mqtts://fleet.local:8883",
    )  # fmt: skip
    assert (config.threads, config.limits.memory_mb, config.limits.max_temperature) == (3, 1700, 75)
    assert load_fleet(kitchen / "identity/fleet.json") == load_fleet(home.fleet_file)
    (identity,) = load_identities(kitchen / "identity/device.key")
    assert read_registry(home)["kitchen"].keys == (identity.public,)
    assert common_name(load_certificate(kitchen / "identity/tls.pem")) == "kitchen"
    assert (np.load(out / "garden/data.npz")["x"] == 1).all()
    private = [path for path in out.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]
    assert len(private) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert "PRIVATE" not in said.out + said.err
    assert [file.name for file in device_files(kitchen)][:3] == ["data.npz", "device.toml", "identity/ca.pem"]
    before = content(out)
    assert provision(home, "kitchen", "garden", *words) == 0
    assert content(out) == before
    assert "new in" not in capsys.readouterr().out


def test_whoever_is_there_stays_as_it_is_and_the_operator_is_told_so_once(home, capsys):
    assert provision(home, "shed", "garden", "--profile", "raspberry-pi-4") == 0
    assert "already" not in capsys.readouterr().out
    before = content(home.devices)
    other = ("--profile", "raspberry-pi-5", "--updates", "client", "--server", "https://other")
    assert provision(home, "shed", "garden", "new", *other) == 0
    said = capsys.readouterr().out
    assert f"1 new in {home.devices}: new.\n" in said
    assert "2 there already: they keep their keys, or token, and configuration" in said
    assert f"change it in {home.devices}/NAME/device.toml." in said
    assert said.count("already") == 1
    assert before.items() <= content(home.devices).items()


def test_a_hundred_take_one_command(home, capsys):
    assert provision(home, "--count", 100, "--prefix", "pi-", "--profile", "raspberry-pi-zero-2w") == 0
    assert "100 new" in capsys.readouterr().out
    names = [f"pi-{number:03}" for number in range(1, 101)]
    assert sorted(read_registry(home)) == names
    assert {load_config(home.device(name) / "device.toml").threads for name in names} == {2}


@pytest.mark.parametrize(
    ("words", "told", "warned"),
    [
        ((), "broker mqtts://fleet.local:8883, server http://fleet.local:8765", False),
        (("--server", "https://web:8443/"), "broker mqtts://fleet.local:8883, server https://web:8443", True),
        (
            ("--server", "https://web", "--broker", "mqtts://me:hush@broker:1"),
            "broker mqtts://broker:1, server https://web",
            False,
        ),
    ],
)
def test_addresses_are_shown_and_a_broker_that_nobody_named_is_warned_of(home, words, told, warned, capsys):
    assert provision(home, "--count", 2, "--profile", "raspberry-pi-4", *words) == 0
    said = capsys.readouterr().out
    assert said.count(f"They are told: {told}.\n") == 1
    assert ("Warning: --broker was not given, so it is the fleet's own host, fleet.local;" in said) == warned
    config = load_config(home.device("device-002") / "device.toml")
    assert f"broker {config.broker}, server {config.server}" == told
    assert "hush" not in said


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        ((), Consent()),
        (("--updates", "models"), Consent(models=True)),
        (("--updates", "client", "--updates", "models"), Consent(client=True, models=True)),
    ],
)
def test_the_owner_allows_what_the_operator_may_put_on_it(home, words, allowed):
    assert provision(home, "kitchen", "--profile", "raspberry-pi-4", *words) == 0
    assert load_config(home.device("kitchen") / "device.toml").updates == allowed


def test_a_file_says_kind_data_and_board_of_each(home, shares, tmp_path):
    file = shares / "devices.csv"
    rows = (
        "kitchen,raspberry-pi-5,kitchen.npz,pi-kitchen,Europe/Berlin,shed,correct horse,DE\n\n"
        'garden,,,,,"open, for all",,FR\n'
    )
    file.write_text("\ufeff" + HEAD + rows, encoding="utf-8")
    assert provision(home, "--csv", file, "--profile", "generic-arm64") == 0
    kitchen, garden = home.device("kitchen"), home.device("garden")
    assert read_board(kitchen) == Board("pi-kitchen", Wifi("shed", "correct horse", "DE"), "Europe/Berlin")
    assert read_board(garden) == Board(None, Wifi("open, for all", None, "FR"), None)
    assert stat.S_IMODE((kitchen / "board.toml").stat().st_mode) == 0o600
    assert (kitchen / "data.npz").exists()
    assert not (garden / "data.npz").exists()
    limits = [tomllib.loads((folder / "device.toml").read_text())["limits"] for folder in (kitchen, garden)]
    assert limits == [{"memory_mb": 3600, "max_temperature": 75.0}, {"memory_mb": 800}]
    assert "board.toml" not in [one.name for one in device_files(kitchen)]


def test_each_kind_is_told_its_own_way_to_the_board(home, tmp_path, capsys):
    file = tmp_path / "devices.csv"
    kinds = {
        "kitchen": "raspberry-pi-4",
        "shed": "raspberry-pi-4",
        "bench": "jetson-orin-nano",
        "desk": "generic-x86-64",
    }
    file.write_text("name,profile\n" + "".join(f"{name},{kind}\n" for name, kind in kinds.items()))
    ways = {
        "kitchen": "first-boot {} --boot BOOT_PARTITION --system trixie",
        "bench": "bundle {} --system jetpack6 --out bench.tar",
        "desk": "bundle {} --system trixie-x86-64 --out desk.tar",
    }
    expected = [
        f"Next, for each {kinds[name]}: fisherfleet devices flash {way.format(home.device(name))}"
        for name, way in ways.items()
    ]
    for _again in range(2):
        assert provision(home, "--csv", file) == 0
        assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("Next")] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title\nx\n", "line 1: column must be one of name, profile, data, hostname"),
        ("name,name\nx,y\n", "line 1: column must be one of name,"),
        ("profile\nraspberry-pi-4\n", "line 1: the column name is missing"),
        ("name\n", "names no device"),
        (HEAD + "good,raspberry-pi-4,,,,,,\nx,y\n", "line 3: it must have 8 cells as line 1, got 2"),
        (
            HEAD + "good,raspberry-pi-4,,,,,,\nserver,raspberry-pi-4,,,,,,\n",
            "line 3: device must be other than operator",
        ),
        (HEAD + "good,raspberry-pi-9,,,,,,\n", "line 2: profile must be one of raspberry-pi-zero-2w"),
        (HEAD + "good,,,,,,,\n", "line 2: profile must be given here or by --profile"),
        (HEAD + "a,raspberry-pi-4,,,,,,\na,raspberry-pi-4,,,,,,\n", "line 3: name must be of one line only, got 'a'"),
        (HEAD + "good,raspberry-pi-4,absent.npz,,,,,\n", "line 2: "),
        (HEAD + "good,raspberry-pi-4,,Kitchen!,,,,\n", "line 2: hostname must be 1 to 63 lower-case"),
        (HEAD + "good,raspberry-pi-4,,,Mars/Base,,,\n", "line 2: timezone must be a name of the IANA"),
        (HEAD + "good,raspberry-pi-4,,,,shed,correct horse,\n", "line 2: country must be given with wifi_ssid"),
        (HEAD + "good,raspberry-pi-4,,,,shed,,Deutschland\n", "line 2: country must be two capital letters, as in DE"),
        (HEAD + "good,raspberry-pi-4,,,,,,de\n", "line 2: country must be two capital letters, as in DE, got 'de'"),
        (HEAD + "good,raspberry-pi-4,,,,shed,secret,DE\n", "line 2: wifi password must be 8 to 63 printable"),
        (HEAD + "good,raspberry-pi-4,,,,,correct horse,DE\n", "line 2: wifi_ssid must be given with wifi_password"),
        ('name\n"open\n', "cannot be read as CSV"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line_and_nothing_is_made(home, tmp_path, text, message, capsys):
    file, before = tmp_path / "devices.csv", content(home.path)
    file.write_text(text)
    assert provision(home, "--csv", file) == 2
    said = capsys.readouterr().err
    assert said.startswith("fisherfleet devices provision: ")
    assert message in said
    assert "secret" not in said
    assert said.count("\n") == 1
    assert content(home.path) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "one of NAME..., --count or --csv"),
        (("kitchen", "--count", 2), "one of NAME..., --count or --csv"),
        (("kitchen",), "--profile is missing"),
        (("kitchen", "--profile", "toaster"), "profile must be one of"),
        (("--count", 0, "--profile", "raspberry-pi-4"), "count must be 1 to 100000, got 0"),
        (("--count", 2, "--prefix", "a/", "--profile", "raspberry-pi-4"), "device must be 1 to 64"),
        (("a", "--profile", "raspberry-pi-4", "--broker", "tcp://x"), "broker must be mqtt://"),
        (("a", "--profile", "raspberry-pi-4", "--server", "web:8443"), "server must be http://host[:port] or"),
        (("a", "b", "--profile", "raspberry-pi-4", "--data", "x.npz"), "data must be a folder with NAME.npz"),
        (("a", "--profile", "raspberry-pi-4", "--data", "absent.npz"), "absent.npz does not exist"),
        (("gone", "new", "--profile", "raspberry-pi-4"), "gone was revoked"),
    ],
)
def test_what_cannot_be_provisioned_is_named_and_nothing_is_made(home, words, message, capsys):
    provision(home, "gone", "--profile", "raspberry-pi-4")
    revoke_device(home, "gone", datetime.now(UTC))
    before = content(home.path)
    capsys.readouterr()
    assert provision(home, *words) == 2
    assert message in capsys.readouterr().err
    assert content(home.path) == before


@pytest.mark.parametrize("lost", ["", "device.toml", "identity/device.key"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_member_whose_folder_has_gone_is_refused_by_name(home, tmp_path, lost, elsewhere, capsys):
    words = ("shed", "--profile", "raspberry-pi-4", *(("--out", tmp_path / "cards") if elsewhere else ()))
    assert provision(home, *words) == 0
    place = home.device("shed") / lost
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    before = content(home.path)
    capsys.readouterr()
    assert provision(home, "new", *words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{home.devices}: shed; leave out who works" in said.err
    assert (
        f"fisherfleet fleet revoke {home.path} shed, then fisherfleet fleet add {home.path} shed --replace" in said.err
    )
    assert content(home.path) == before

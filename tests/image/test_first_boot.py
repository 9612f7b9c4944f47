"""A card with stock Raspberry Pi OS that `fisherfleet devices flash first-boot` prepared, started in qemu: see `make
test-image`.

A real cloud-init installs the client from the boot partition, and the board is a device of a real fleet: it says so at
the broker, trains a round, and is the same device after another start.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.command_line import main
from tests.image.board import Board
from tests.image.headquarters import ROOT, RUN, Headquarters
from tests.image.stock_system import StockCard

pytestmark = pytest.mark.image

DEVICE, USER = "kitchen", "pi"
SERVE = (
    *("--rounds", "1", "--local-steps", "20", "--batch-size", "16", "--round-seconds", "1800"),
    *("--min-devices", "1", "--quorum", "1", "--privacy", "none"),
)


@pytest.fixture
def device_folder(headquarters: Headquarters, tmp_path: Path) -> Path:
    shares = [sys.executable, ROOT / "examples" / "digits_in_shares.py", tmp_path / "shares", DEVICE]
    subprocess.run(shares, check=True, cwd=ROOT)
    words = ["devices", "provision", DEVICE, "--fleet", headquarters.fleet, "--profile", "generic-arm64"]
    words += ["--server", headquarters.server_url, "--broker", headquarters.broker_url]
    words += ["--data", tmp_path / "shares" / f"{DEVICE}.npz", "--out", tmp_path / "devices"]
    headquarters.fisherfleet(*words)
    return tmp_path / "devices" / DEVICE


@pytest.fixture
def board(device_folder: Path, ssh_key: Path, tmp_path: Path) -> Iterator[Board]:
    card, password = StockCard(tmp_path / "card"), tmp_path / "password"
    password.write_text("correct horse battery\n")
    words = ["devices", "flash", "first-boot", device_folder, "--boot", card.boot, "--system", "trixie"]
    words += ["--ssh-key", f"{ssh_key}.pub", "--timezone", "Europe/Berlin", "--hostname", "pi-kitchen"]
    words += ["--wifi-ssid", "shed", "--wifi-password-file", password, "--country", "DE"]
    assert main(list(map(str, words))) == 0
    made = Board(card.put_together(), tmp_path / "board", ssh_key, USER)
    assert {"user-data", "network-config"} <= set(map(str.strip, made.boot_files().replace("::/", "").split()))
    yield made
    made.stop()


def test_cloud_init_makes_a_device_of_a_stock_system(board: Board, headquarters: Headquarters) -> None:
    board.start()
    board.wait_for(rf"{DEVICE}: run {RUN} round 1: plan")
    device = heard_of(headquarters)  # before the run is over, with which the server ends
    assert_cloud_init_has_no_complaint(board)
    assert_the_client_is_installed(board)
    assert_the_board_is_as_it_was_told(board)
    assert (device["standing"], device["online"]) == ("enrolled", True)
    headquarters.await_end()
    assert headquarters.rounds() == {1: 1}
    board.shut_down()
    left = board.boot_files()
    assert "fisherfleet" not in left
    assert "network-config" not in left
    assert b"PRIVATE" not in board.boot_file("user-data")
    board.start()
    board.wait_for(rf"{DEVICE}: .*connected")
    assert_the_board_is_as_it_was_told(board)
    assert "type=1326" not in board.text(), "a system call was refused by a seccomp filter"


def assert_cloud_init_has_no_complaint(board: Board) -> None:
    said = json.loads(board.run("cloud-init status --wait >/dev/null; cloud-init status --format=json || true"))
    assert (said["status"], said["errors"]) == ("done", [])
    complaints = {kind: set(lines) for kind, lines in said["recoverable_errors"].items()}
    ours = {kind: {line for line in lines if "fs_label" not in line} for kind, lines in complaints.items()}
    assert not any(ours.values()), "but for how the stand-in finds its partition"


def assert_the_client_is_installed(board: Board) -> None:
    assert board.run("dpkg-query --show --showformat='${Status}' fisherfleet-edge") == "install ok installed"
    shown = board.run("systemctl show --property=User,ActiveState,UnitFileState fisherfleet-edge")
    assert set(shown.split()) == {"User=fisherfleet", "ActiveState=active", "UnitFileState=enabled"}
    running = "stat --format=%U /proc/$(systemctl show --value --property=MainPID fisherfleet-edge)"
    assert board.run(running).strip() == "fisherfleet"
    state = "/var/lib/fisherfleet-edge"
    wanted = f"{state} {state}/device.toml {state}/identity {state}/identity/device.key"
    modes = board.run(f"sudo stat --format='%U:%G %a' {wanted}").split("\n")
    assert modes[:4] == [f"fisherfleet:fisherfleet {mode}" for mode in ("700", "600", "700", "600")]
    assert not board.run("ls /etc/systemd/system/multi-user.target.wants").count("fisherfleet-first-boot")


def assert_the_board_is_as_it_was_told(board: Board) -> None:
    assert board.run("hostname").strip() == "pi-kitchen"
    assert board.run("readlink /etc/localtime").strip().endswith("/usr/share/zoneinfo/Europe/Berlin")
    assert board.run("whoami").strip() == USER
    assert "shed" in board.run("sudo cat /etc/netplan/50-cloud-init.yaml")
    assert board.run("systemctl list-units --failed --plain --no-legend") == ""


def heard_of(headquarters: Headquarters) -> dict[str, object]:
    """What the server knows of the device from its state message at the broker."""
    return json.loads(headquarters.operate("devices", "show", DEVICE, "--json"))

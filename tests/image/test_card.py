"""A card's image as `fisherfleet devices flash image` makes it, started in qemu: see `make test-image`.

The device makes its keys, enrols, trains, loses its power in the middle of a round and again after it has sent an
update, and every round counts it once.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from devices.flashing.card.layout import ALIGN_MIB, BOOT_MIB, MIB
from tests.image.board import Board
from tests.image.headquarters import ROOT, RUN, Headquarters

pytestmark = pytest.mark.image

DEVICE = "kitchen"
CARD_BYTES = 4 * 1024 * MIB
ROUNDS = 3
SERVE = (
    *("--rounds", str(ROUNDS), "--local-steps", "400", "--batch-size", "16", "--round-seconds", "1800"),
    *("--min-devices", "1", "--quorum", "1", "--privacy", "none"),
)


@pytest.fixture
def device_folder(headquarters: Headquarters, tmp_path: Path) -> Path:
    """As `fisherfleet devices provision --token` makes it, with the device's examples."""
    folder = tmp_path / DEVICE
    folder.mkdir()
    said = {"server": headquarters.server_url, "device": DEVICE, "token": headquarters.token(), "ca_file": "ca.pem"}
    (folder / "enrol.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items()))
    (folder / "ca.pem").write_bytes((headquarters.fleet / "broker" / "ca.pem").read_bytes())
    shares = [sys.executable, ROOT / "examples" / "digits_in_shares.py", tmp_path / "shares", DEVICE]
    subprocess.run(shares, check=True, cwd=ROOT)
    with np.load(tmp_path / "shares" / f"{DEVICE}.npz") as share:
        np.savez(folder / "data.npz", x=share["x"][:320], y=share["y"][:320])
    return folder


@pytest.fixture
def board(device_folder: Path, ssh_key: Path, tmp_path: Path) -> Iterator[Board]:
    card = tmp_path / "card.img"
    options = ["--system", os.environ.get("FISHERFLEET_CARD_SYSTEM", "trixie"), "--ssh-key", f"{ssh_key}.pub"]
    command = [sys.executable, "-m", "devices.command_line", "devices", "flash", "image", device_folder, *options]
    subprocess.run([*map(str, command), "--timezone", "Europe/Berlin", "--out", str(card)], check=True, cwd=ROOT)
    assert card.stat().st_mode & 0o777 == 0o600
    os.truncate(card, CARD_BYTES)
    made = Board(card, tmp_path / "board", ssh_key)
    try:
        yield made
    except BaseException:
        made.stop()
        raise
    made.stop()


def test_a_card_enrols_trains_and_survives_power_cuts(board: Board, headquarters: Headquarters) -> None:
    board.start()
    board.wait_for(rf"{DEVICE}: run {RUN} round 1: plan")
    board.cut_power()
    board.start()
    board.wait_for(rf"{DEVICE}: run {RUN} round 2: sent")
    board.cut_power()
    board.start()
    headquarters.await_end()
    assert headquarters.rounds() == dict.fromkeys(range(1, ROUNDS + 1), 1)
    assert_all_is_well_on(board)
    board.shut_down()
    assert_nothing_secret_is_left_on_the_boot_partition(board)
    assert_the_file_system_is_clean(board)


def assert_all_is_well_on(board: Board) -> None:
    assert board.run("systemctl list-units --failed --plain --no-legend") == ""
    assert board.run("hostname").strip() == DEVICE
    assert board.run("readlink /etc/localtime").strip() == "/usr/share/zoneinfo/Europe/Berlin"
    assert int(board.run("df --output=size --block-size=1 / | tail -1")) > CARD_BYTES * 0.8
    owners = board.run(
        "cd /var/lib/fisherfleet-edge && stat --format='%U %a' . device.toml identity identity/device.key"
    )
    assert owners.splitlines() == [f"fisherfleet {mode}" for mode in (700, 600, 700, 600)]
    there = set(board.run("ls /var/lib/fisherfleet-edge").split())
    assert {"data.npz", "device.toml", "identity", "state"} <= there
    assert "enrol.toml" not in there
    assert "type=1326" not in board.text(), "a system call was refused by a seccomp filter"
    assert len(re.findall("recovering journal|recovery complete", board.text())) >= 2, "after each cut"


def assert_nothing_secret_is_left_on_the_boot_partition(board: Board) -> None:
    assert "fisherfleet" not in board.boot_files()


def assert_the_file_system_is_clean(board: Board) -> None:
    offset = (ALIGN_MIB + BOOT_MIB) * MIB
    done = subprocess.run(
        ["e2fsck", "-fn", f"{board.card}?offset={offset}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

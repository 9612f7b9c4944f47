"""Cards: what of them is written without an emulated machine; `make test-image` starts whole ones."""

import json
import shutil
import stat
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from devices.command_line import main
from devices.errors import FlashError
from devices.flashing.card import base as base_module
from devices.flashing.card.base import FILES, base_image, our_files
from devices.flashing.card.layout import ALIGN_MIB, BOOT_LABEL, BOOT_MIB, CARD, MIB, ROOT_LABEL, boot_offset
from devices.flashing.card.programs import BY_PACKAGE, require_programs, search_path
from devices.flashing.card.settings import wpa_supplicant_configuration
from devices.flashing.card.write import FIRST_BOOT, boot_partition, write_card
from devices.flashing.installation import Installation, Wifi
from devices.flashing.systems import SYSTEMS

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5bXQw6k6vXH0oZ8d1m0C1xk1m3v9m9 me@desk"
SMALL_BOOT_MIB = 40
BOOT_OFFSET = ALIGN_MIB * MIB


@pytest.fixture(autouse=True)
def programs() -> None:
    try:
        require_programs(tuple(BY_PACKAGE))
    except FlashError as error:
        pytest.skip(str(error))


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    folder = tmp_path / "kitchen"
    (folder / "identity").mkdir(parents=True)
    (folder / "device.toml").write_text('device = "kitchen"\n')
    (folder / "identity" / "device.key").write_text("secret")
    (folder / "state").mkdir()
    (folder / "state" / "plan").write_text("of another start")
    wifi = Wifi("café", "correct horse", "DE")
    return Installation(folder, SYSTEMS["trixie"], "kitchen", wifi, (KEY,), "Europe/Berlin")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A card with a boot partition alone, a small one."""
    image, environment = tmp_path / "base.img", {"PATH": search_path()}
    with image.open("wb") as file:
        file.truncate(BOOT_OFFSET + SMALL_BOOT_MIB * MIB)
    table = f"label: dos\nstart={ALIGN_MIB}MiB, type=c, bootable\n"
    subprocess.run(["sfdisk", image], input=table, text=True, check=True, capture_output=True, env=environment)
    command = ["mkdosfs", "-F", "32", "--offset", str(BOOT_OFFSET // 512), image, str(SMALL_BOOT_MIB * 1024)]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return image


def boot_files(card: Path) -> dict[str, bytes]:
    drive = f"{card}@@{BOOT_OFFSET}"
    listed = subprocess.run(["mdir", "-/", "-b", "-i", drive, "::"], check=True, capture_output=True, text=True).stdout
    names = [line.removeprefix("::/") for line in listed.splitlines() if not line.endswith("/")]
    return {name: subprocess.check_output(["mcopy", "-i", drive, f"::/{name}", "-"]) for name in names}


def test_a_devices_card_has_its_files_on_the_boot_partition_and_nobody_else_may_read_it(
    base: Path, installation: Installation, tmp_path: Path
) -> None:
    card = tmp_path / "kitchen.img"
    card.write_text("of yesterday")
    card.chmod(0o644)
    before = base.read_bytes()
    write_card(base, boot_partition(installation), card)
    assert stat.S_IMODE(card.stat().st_mode) == 0o600
    assert base.read_bytes() == before
    files = boot_files(card)
    assert files["fisherfleet/first-boot.sh"] == FIRST_BOOT.read_bytes()
    assert files["fisherfleet/device/identity/device.key"] == b"secret"
    assert files["fisherfleet-board/authorized_keys"].decode() == f"{KEY}\n"
    assert files["fisherfleet-board/hostname"] == b"kitchen\n"
    assert files["fisherfleet-board/timezone"] == b"Europe/Berlin\n"
    assert set(files) == {
        "fisherfleet/first-boot.sh",
        "fisherfleet/device/device.toml",
        "fisherfleet/device/identity/device.key",
        "fisherfleet-board/authorized_keys",
        "fisherfleet-board/hostname",
        "fisherfleet-board/timezone",
        "fisherfleet-board/wpa_supplicant.conf",
    }


def test_a_board_without_wireless_network_and_keys_is_told_of_none(
    base: Path, installation: Installation, tmp_path: Path
) -> None:
    write_card(base, boot_partition(replace(installation, wifi=None, ssh_keys=())), tmp_path / "card.img")
    assert {name for name in boot_files(tmp_path / "card.img") if name.startswith("fisherfleet-board")} == {
        "fisherfleet-board/hostname",
        "fisherfleet-board/timezone",
    }


def test_what_does_not_fit_leaves_the_card_that_was_there(
    base: Path, installation: Installation, tmp_path: Path
) -> None:
    card = tmp_path / "card.img"
    card.write_text("of yesterday")
    (installation.device_folder / "data.npz").write_bytes(bytes(SMALL_BOOT_MIB * MIB + 1))
    with pytest.raises(FlashError, match=r"boot partition of .*card.img: mcopy failed: .*[Ff]ull"):
        write_card(base, boot_partition(installation), card)
    assert card.read_text() == "of yesterday"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.img", "card.img", "kitchen"]


@pytest.mark.parametrize("content", [b"", bytes(512), bytes(510) + b"\x55\xaa", b"EFI PART" * 64])
def test_only_cards_are_written_on(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "base.img").write_bytes(content)
    with pytest.raises(FlashError, match=r"base\.img is no card's image"):
        write_card(tmp_path / "base.img", {}, tmp_path / "card.img")
    with pytest.raises(FlashError, match=r"other\.img cannot be read"):
        write_card(tmp_path / "other.img", {}, tmp_path / "card.img")
    assert [path.name for path in tmp_path.iterdir()] == ["base.img"]


@pytest.mark.parametrize(
    ("wifi", "lines"),
    [
        (Wifi("café", 'a "quoted" one', "DE"), ["key_mgmt=WPA-PSK SAE", "ieee80211w=1", 'psk="a "quoted" one"']),
        (Wifi("café", "0123456789abcdef" * 4, "DE"), ["key_mgmt=WPA-PSK", f"psk={'0123456789abcdef' * 4}"]),
        (Wifi("café", None, "DE"), ["key_mgmt=NONE"]),
    ],
)
def test_a_wireless_network(wifi: Wifi, lines: list[str]) -> None:
    written = wpa_supplicant_configuration(wifi).splitlines()
    assert written[:3] == ["country=DE", "network={", "    ssid=636166c3a9"]
    assert [line.strip() for line in written[4:-1]] == lines
    assert written[-1] == "}"


def test_a_card_is_divided_as_a_raspberry_pi_reads_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "boot/firmware").mkdir(parents=True)
    (root / "boot/firmware/config.txt").write_text("arm_64bit=1\n")
    (root / "etc").mkdir()
    (root / "etc/hostname").write_text("fisherfleet\n")
    with tarfile.open(tmp_path / "board.tar", "w") as tar:
        tar.add(root, ".", filter=lambda member: member.replace(uid=7, gid=8, uname="", gname="", deep=False))
    shutil.rmtree(root)
    base_module._divide(tmp_path)
    card = tmp_path / "out" / CARD
    table = json.loads(subprocess.check_output(["sfdisk", "--json", card], env={"PATH": search_path()}))
    boot, rest = table["partitiontable"]["partitions"]
    assert table["partitiontable"]["label"] == "dos"
    assert (boot["type"], boot["bootable"], boot["start"] * 512) == ("c", True, BOOT_OFFSET)
    assert (rest["type"], rest["start"] * 512) == ("83", BOOT_OFFSET + BOOT_MIB * MIB)
    assert rest["start"] * 512 % (ALIGN_MIB * MIB) == 0
    with card.open("rb") as image:
        assert boot_offset(image.read(512)) == BOOT_OFFSET
    assert boot_files(card) == {"config.txt": b"arm_64bit=1\n"}
    assert_root_file_system(card, rest["start"] * 512)


def assert_root_file_system(card: Path, offset: int) -> None:
    def debugfs(request: str) -> str:
        command = ["debugfs", "-R", request, f"{card}?offset={offset}"]
        return subprocess.check_output(command, text=True, stderr=subprocess.PIPE, env={"PATH": search_path()})

    assert f"volume name:   {ROOT_LABEL}" in debugfs("stats")
    assert debugfs("cat /etc/hostname") == "fisherfleet\n"
    assert "User:     7   Group:     8" in debugfs("stat /etc/hostname")
    check = ["e2fsck", "-fn", f"{card}?offset={offset}"]
    subprocess.run(check, check=True, capture_output=True, env={"PATH": search_path()})


def test_labels_are_those_that_the_board_mounts_and_starts_from() -> None:
    mounted = (FILES / "etc/fstab").read_text().split()
    assert mounted[0::6] == [f"LABEL={ROOT_LABEL}", f"LABEL={BOOT_LABEL}"]
    assert f"ROOTPART=LABEL={ROOT_LABEL}\n" in (FILES / "etc/default/raspi-firmware").read_text()


def test_our_files_are_roots_and_nobody_else_may_write_them(tmp_path: Path) -> None:
    (tmp_path / "ours.tar").write_bytes(our_files())
    with tarfile.open(tmp_path / "ours.tar") as tar:
        members = {member.name: member for member in tar}
    assert {(member.uid, member.gid, member.mode & 0o022, member.issym()) for member in members.values()} == {
        (0, 0, 0, False)
    }
    assert members["usr/lib/fisherfleet-board/grow-root"].mode == 0o755
    assert members["etc/systemd/system/fisherfleet-first-boot.service"].mode == 0o644
    assert our_files() == (tmp_path / "ours.tar").read_bytes()


@pytest.mark.parametrize("unit", sorted((FILES / "etc/systemd/system").glob("*.service")), ids=lambda unit: unit.stem)
def test_systemd_takes_a_unit(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/usr/lib/fisherfleet-board", str(FILES / "usr/lib/fisherfleet-board")))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "script", sorted((FILES / "usr/lib/fisherfleet-board").iterdir()), ids=lambda script: script.stem
)
def test_shellcheck_finds_nothing(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_other_systems_have_no_card(tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="system of a card must be one of bookworm, trixie, got 'jetpack6'"):
        base_image(SYSTEMS["jetpack6"], tmp_path, lambda line: None)


def test_what_is_not_installed_is_said_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devices.flashing.card.programs._ADMINISTRATION", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FlashError, match="apt install genimage mtools"):
        require_programs(("mcopy", "genimage"))


def test_the_command_refuses_in_one_line(installation: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    (installation.device_folder / "identity" / "device.key").unlink()
    words = ["devices", "flash", "image", str(installation.device_folder), "--system", "trixie", "--out", "card.img"]
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1

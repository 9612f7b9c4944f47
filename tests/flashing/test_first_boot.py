"""`fisherfleet devices flash first-boot`: what it leaves on a boot partition as Raspberry Pi OS has it, and what its
script makes of that."""

import getpass
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tomllib
import yaml

from devices.command_line import main
from devices.errors import FlashError
from devices.flashing import boot_partition as boot_partition_writing
from devices.flashing.boot_partition import require_boot_partition, restore, write_first_boot
from devices.flashing.cloud_init import network_config, user_data
from devices.flashing.debian_package import package_name
from devices.flashing.device_folder import device_files
from devices.flashing.first_boot_files import FirstBoot, kernel_words
from devices.flashing.firstrun import firstrun_script
from devices.flashing.installation import Installation, Wifi
from devices.flashing.systems import SYSTEMS
from devices.provisioning.enrolment import Surroundings, add_devices
from server.fleet.fleet_folder import create_fleet
from wire_protocol.errors import InvalidValueError

SCRIPT = Path("devices/flashing/first-boot.sh").resolve()
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5l me@laptop"
SSID = 'Café \'n "bar": #1'
WIFI = Wifi(SSID, "correct horse battery", "NO")
CMDLINE = "console=serial0,115200 console=tty1 root=PARTUUID=1-02 rootfstype=ext4 fsck.repair=yes rootwait\n"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = create_fleet(tmp_path_factory.mktemp("fleet") / "home", "home", ("fleet.local",), datetime.now(UTC))
    add_devices(folder, ["kitchen"], Surroundings(), datetime.now(UTC))
    (folder.device("kitchen") / "data.npz").write_bytes(b"examples")
    return folder.device("kitchen")


@pytest.fixture
def package(tmp_path: Path, system: str) -> Path:
    """Nothing of these tests opens it."""
    path = tmp_path / package_name(SYSTEMS[system])
    path.write_bytes(b"a package")
    return path


def boot_partition(folder: Path, system: str) -> Path:
    """A boot partition with the files that pi-gen puts there (stage1/00-boot-files, stage2/04-cloud-init)."""
    folder.mkdir(exist_ok=True)
    texts = {
        "cmdline.txt": CMDLINE,
        "config.txt": "arm_64bit=1\n",
        "issue.txt": "Raspberry Pi reference 2025-11-24\nGenerated using pi-gen\n",
        "kernel8.img": "",
    }
    if system == "trixie":
        texts["meta-data"] = "# The datasource is local.\ndsmode: local\ninstance_id: rpios-image\n"
        texts["user-data"] = "#cloud-config\n\n#hostname: raspberrypi\n"
        texts["network-config"] = "# Wireless networks\n\n#network:\n#  version: 2\n"
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def card_reader(tmp_path: Path) -> Iterator[Path]:
    """A mounted FAT file system."""
    image, place = tmp_path / "fat.img", tmp_path / "media"
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    needs("mkfs.vfat")
    subprocess.run(["/usr/sbin/mkfs.vfat", "-F", "32", image], check=True, capture_output=True)
    place.mkdir()
    if subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def system(request: pytest.FixtureRequest) -> str:
    """Trixie but for tests of both."""
    return getattr(request, "param", "trixie")


both = pytest.mark.parametrize("system", ["trixie", "bookworm"], indirect=True)


@pytest.fixture
def boot(tmp_path: Path, system: str) -> Path:
    return boot_partition(tmp_path / "bootfs", system)


def installation(device: Path, system: str = "trixie") -> Installation:
    return Installation(device, SYSTEMS[system], "pi-kitchen", WIFI, (KEY,), "Europe/Berlin")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def needs(program: str) -> None:
    if shutil.which(program, path=f"{os.defpath}:/usr/sbin") is None:
        pytest.skip(f"needs {program}")


@both
def test_the_command_prepares_a_card_again_and_takes_it_all_back(
    boot, system, device, package, tmp_path, capsys
) -> None:
    key, password, before = tmp_path / "id.pub", tmp_path / "wifi", content(boot)
    key.write_text(f"{KEY}\n")
    password.write_text("correct horse battery\n")
    words = ["devices", "flash", "first-boot", str(device), "--boot", str(boot), "--system", system]
    words += ["--package", str(package), "--wifi-ssid", "shed", "--country", "DE", "--ssh-key", str(key)]
    words += ["--wifi-password-file", str(password), "--hostname", "pi-kitchen"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "ssh pi@pi-kitchen.local" in said.out
    ours = boot / "fisherfleet"
    assert (ours / "device/identity/device.key").read_bytes() == (device / "identity/device.key").read_bytes()
    assert (ours / package.name).read_bytes() == package.read_bytes()
    assert (ours / "first-boot.sh").read_bytes() == SCRIPT.read_bytes()
    line = (boot / "cmdline.txt").read_text()
    assert line.startswith(CMDLINE.strip())
    assert line.count("\n") == 1
    assert "cfg80211.ieee80211_regdom=DE" in line
    everything = b"".join(content(boot).values()) + said.out.encode() + said.err.encode()
    assert b"correct horse" not in everything
    first = content(boot)
    assert main([*words, "--hostname", "other"]) == 0
    assert "pi-kitchen" not in "".join(text.decode(errors="replace") for name, text in content(boot).items())
    assert set(content(boot)) == set(first)
    assert main([*words, "--undo"]) == 0
    assert content(boot) == before
    assert main([*words, "--undo"]) == 0
    assert "nothing of ours" in capsys.readouterr().out


def test_a_card_in_a_reader_is_prepared_and_made_a_device_of(card_reader, device, package, tmp_path) -> None:
    boot = boot_partition(card_reader, "trixie")
    before = content(boot)
    write_first_boot(boot, FirstBoot(installation(device), "pi", "kitchen-1"), package)
    assert restore(boot)
    assert content(boot) == before
    assert run_script(settled(boot, device, package), tmp_path / "state").returncode == 0
    assert content(tmp_path / "state") == content(device)
    assert not (boot / "fisherfleet").exists()


def test_each_writing_is_a_new_instance_that_the_kernels_words_name(device, package, tmp_path) -> None:
    boot = boot_partition(tmp_path / "bootfs", "trixie")
    found = []
    for instance in ("kitchen-1", "kitchen-2"):
        write_first_boot(boot, FirstBoot(installation(device), "pi", instance), package)
        described = yaml.safe_load((boot / "meta-data").read_text())
        assert described == {"dsmode": "local", "instance-id": instance}
        found.append((boot / "cmdline.txt").read_text())
    assert found[0].endswith(" ds=nocloud;i=kitchen-1\n")
    assert found[1] == found[0].replace("kitchen-1", "kitchen-2")


def test_a_power_cut_while_a_card_is_prepared_loses_nothing_of_the_systems(
    device, package, tmp_path, monkeypatch
) -> None:
    write, cuts = boot_partition_writing._write, 0
    while True:
        boot = boot_partition(tmp_path / f"bootfs-{cuts}", "trixie")
        before, left = content(boot), [cuts]

        def cut(path: Path, text: bytes, left: list[int] = left) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            write(path, text)

        monkeypatch.setattr(boot_partition_writing, "_write", cut)
        try:
            write_first_boot(boot, FirstBoot(installation(device), "pi", "kitchen-1"), package)
        except KeyboardInterrupt:
            monkeypatch.undo()
            restore(boot)
            assert content(boot) == before
            cuts += 1
        else:
            monkeypatch.undo()
            assert cuts > 10
            return


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"issue.txt": None}, "it has no issue.txt"),
        ({"cmdline.txt": None}, "it has no cmdline.txt"),
        ({"issue.txt": "DietPi"}, "issue.txt names another system"),
        ({"kernel8.img": None}, "it has no kernel8.img"),
        ({"kernel7.img": ""}, "the client needs the 64-bit one"),
        ({"meta-data": None}, "has no meta-data, which Raspberry Pi OS trixie has from November 2025"),
        ({"user-data": "#cloud-config\nhostname: mine\n"}, "user-data has settings already"),
        ({"network-config": "network: {version: 2}\n"}, "network-config has settings already"),
        ({"cmdline.txt": f"{CMDLINE.strip()} ds=nocloud;i=rpi-imager-1\n"}, "has ds=nocloud;i=rpi-imager-1 in it"),
        ({"cmdline.txt": f"{CMDLINE.strip()} systemd.run=/boot/firstrun.sh\n"}, "prepared in another way"),
    ],
)
def test_what_is_no_fresh_card_of_the_system_is_refused_and_left_alone(
    device, package, tmp_path, changes, message
) -> None:
    boot = boot_partition(tmp_path / "bootfs", "trixie")
    for name, text in changes.items():
        (boot / name).unlink(missing_ok=True)
        if text is not None:
            (boot / name).write_text(text)
    before = content(boot)
    with pytest.raises(FlashError, match=message):
        write_first_boot(boot, FirstBoot(installation(device), "pi", "kitchen-1"), package)
    assert content(boot) == before


def test_other_systems_and_folders_are_refused_by_name(device, package, tmp_path) -> None:
    with pytest.raises(FlashError, match="system must be trixie or bookworm, as Raspberry Pi OS is, got 'jetpack6'"):
        FirstBoot(installation(device, "jetpack6"), "pi", "1")
    with pytest.raises(FlashError, match="it is of Raspberry Pi OS trixie, not bookworm"):
        require_boot_partition(boot_partition(tmp_path / "bootfs", "trixie"), SYSTEMS["bookworm"])
    makers = "`fisherfleet devices provision` or `fisherfleet fleet add` made for the device"
    with pytest.raises(FlashError, match=f"absent is not there, expected the folder that {makers}"):
        device_files(tmp_path / "absent")
    with pytest.raises(FlashError, match="is not there"):
        require_boot_partition(tmp_path / "absent", SYSTEMS["bookworm"])


def test_cloud_init_and_netplan_accept_what_they_are_given(device, tmp_path) -> None:
    needs("cloud-init")
    needs("netplan")
    file = tmp_path / "user-data"
    for keys in ((KEY,), ()):
        file.write_text(user_data(replace(installation(device), ssh_keys=keys), "pi"))
        done = subprocess.run(
            ["cloud-init", "schema", "--config-file", file], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Valid" in done.stdout
    described = yaml.safe_load(file.read_text())
    assert (described["hostname"], described["timezone"]) == ("pi-kitchen", "Europe/Berlin")
    assert file.read_text().startswith("#cloud-config\n")
    place = tmp_path / "etc/netplan/50-cloud-init.yaml"
    place.parent.mkdir(parents=True)
    for wifi in (WIFI, Wifi("open", None, "DE")):
        place.write_text(network_config(wifi))
        place.chmod(0o600)
        generated = ["netplan", "generate", "--root-dir", str(tmp_path)]
        done = subprocess.run(generated, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (made,) = (tmp_path / "run/netplan").glob("wpa-*.conf")
        assert f'ssid="{wifi.ssid}"' in made.read_text() or wifi.ssid.encode().hex() in made.read_text().lower()
    assert "psk" not in made.read_text()


def test_the_key_of_a_network_is_the_standards() -> None:
    assert Wifi("IEEE", "password", "US").pre_shared_key == (  # IEEE 802.11, J.4.2
        "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"
    )
    assert Wifi("IEEE", 64 * "a", "US").pre_shared_key == 64 * "a"


@pytest.mark.parametrize(
    ("password", "got"),
    [
        ("secret", "got 6 characters"),
        ("se cret" * 10, "got 70 characters"),
        ("secret-é", "got 8 characters, not all of them printable ASCII"),
    ],
)
def test_a_password_that_is_none_is_counted_and_never_shown(password, got) -> None:
    with pytest.raises(InvalidValueError) as refused:
        Wifi("IEEE", password, "US")
    legal = "8 to 63 printable ASCII characters or 64 hexadecimal digits"
    assert str(refused.value) == f"wifi password must be {legal}, {got}"
    assert refused.value.field == "wifi password"


def test_the_first_run_is_a_clean_script_that_the_systems_fix_up_takes(device, tmp_path) -> None:
    needs("shellcheck")
    file = tmp_path / "firstrun.sh"
    for wifi in (WIFI, Wifi("it's open", None, "DE"), None):
        file.write_text(firstrun_script(replace(installation(device), wifi=wifi), "kim"))
        checked = subprocess.run(["shellcheck", file, SCRIPT], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    kept = subprocess.run(["sed", "-n", r"/rm.*firstrun\.sh$/q;p", file], capture_output=True, text=True, check=True)
    removed = set(file.read_text().splitlines()) - set(kept.stdout.splitlines())
    assert removed == {"rm -f /boot/firstrun.sh", "sed -i 's| systemd.run.*||g' /boot/cmdline.txt", "exit 0"}
    boot = FirstBoot(installation(device, "bookworm"), "pi", "kitchen-1")
    words = kernel_words(CMDLINE, boot)
    done = subprocess.run(["sed", "s| systemd.run.*||g"], input=words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*CMDLINE.split(), "cfg80211.ieee80211_regdom=NO"]


def run_script(folder: Path, state: Path, commands: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it as root would there, with these commands in place of the system's."""
    command = ["sh", str(folder / "first-boot.sh"), str(folder), str(state), getpass.getuser()]
    path = os.environ["PATH"] if commands is None else f"{commands}:{os.environ['PATH']}"
    around = os.environ | {"PATH": path}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=around)


def settled(boot: Path, device: Path, package: Path) -> Path:
    """A prepared card whose package is installed."""
    write_first_boot(boot, FirstBoot(installation(device), "pi", "kitchen-1"), package)
    (boot / "fisherfleet" / package.name).unlink()
    return boot / "fisherfleet"


def test_the_script_gives_the_files_to_their_owner_and_leaves_no_secret_on_the_card(device, package, tmp_path) -> None:
    boot, state = boot_partition(tmp_path / "bootfs", "trixie"), tmp_path / "state"
    folder = settled(boot, device, package)
    for path in folder.rglob("*"):
        path.chmod(0o755)  # as FAT shows all of them
    done = run_script(folder, state)
    assert done.returncode == 0, done.stderr
    assert content(state) == content(device)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in state.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (state, state / "identity")} == {0o700}
    assert not folder.exists()
    assert not (boot / "network-config").exists()
    left = b"".join(content(boot).values())
    assert b"PRIVATE" not in left
    assert WIFI.pre_shared_key.encode() not in left
    assert (boot / "user-data").exists()


def test_the_script_cut_short_anywhere_and_run_again_makes_the_whole_device(device, package, tmp_path) -> None:
    """Every command that changes something is in turn the one that a power cut comes before."""
    card, cuts = boot_partition(tmp_path / "bootfs", "trixie"), 0
    settled(card, device, package)
    while True:
        place = tmp_path / str(cuts)
        boot = Path(shutil.copytree(card, place / "bootfs"))
        commands = cutting(place, cuts)
        if run_script(boot / "fisherfleet", place / "state", commands).returncode == 0:
            break
        (place / "left").write_text("1000\n")
        if (boot / "fisherfleet").exists():
            assert run_script(boot / "fisherfleet", place / "state", commands).returncode == 0
        assert content(place / "state") == content(device)
        assert not (boot / "fisherfleet").exists()
        cuts += 1
    assert cuts > 15


def cutting(place: Path, count: int) -> Path:
    """A folder of commands that kill who calls them once `count` of them were called; `sync` waits for nothing."""
    folder, left = place / "bin", place / "left"
    folder.mkdir()
    left.write_text(f"{count}\n")
    for name in ("install", "cp", "chown", "find", "mv", "rm", "rmdir", "sync"):
        command = folder / name
        real = "true" if name == "sync" else shutil.which(name)
        command.write_text(
            f'#!/bin/sh\nread -r left <{left}\ntest "$left" -gt 0 || {{ kill -9 $PPID; exit 1; }}\n'
            f'echo $((left - 1)) >{left}\nexec {real} "$@"\n'
        )
        command.chmod(0o755)
    return folder


def test_a_device_that_makes_its_keys_itself_gets_its_token_the_same_way(package, tmp_path) -> None:
    device = tmp_path / "kitchen"
    device.mkdir()
    (device / "enrol.toml").write_text('server = "https://x"\ndevice = "kitchen"\ntoken = "ffe_secret.mark"\n')
    (device / "ca.pem").write_text("a certificate")
    folder = settled(boot_partition(tmp_path / "bootfs", "trixie"), device, package)
    assert run_script(folder, tmp_path / "state").returncode == 0
    assert tomllib.loads((tmp_path / "state/enrol.toml").read_text())["token"] == "ffe_secret.mark"
    assert stat.S_IMODE((tmp_path / "state/enrol.toml").stat().st_mode) == 0o600


def test_what_goes_wrong_is_said_on_the_card(device, package, tmp_path) -> None:
    folder = settled(boot_partition(tmp_path / "bootfs", "trixie"), device, package)
    done = subprocess.run(
        ["sh", str(folder / "first-boot.sh"), str(folder), str(tmp_path / "state"), "nobody-of-this-name"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "nobody-of-this-name" in (folder / "first-boot.log").read_text()
    assert "nobody-of-this-name" in done.stderr
    assert (folder / "device/device.toml").exists()


@both
def test_files_for_raspberry_pi_imager(device, package, tmp_path, system, capsys) -> None:
    out = tmp_path / "card"
    words = ["devices", "flash", "first-boot", str(device), "--out", str(out), "--system", system, "--package", package]
    for _ in range(2):
        assert main(list(map(str, words))) == 0
    option = "--cloudinit-userdata" if system == "trixie" else "--first-run-script"
    assert f"rpi-imager --cli {option} {out}" in capsys.readouterr().out
    assert (out / "fisherfleet/device/device.toml").exists()
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if path.is_file()} == {0o600}
    assert main([*map(str, words[:5]), str(tmp_path), *map(str, words[6:])]) == 2
    other = "bookworm" if system == "trixie" else "trixie"
    assert main([*map(str, words), "--system", other]) == 2
    assert f"package must be {package_name(SYSTEMS[other])}" in capsys.readouterr().err

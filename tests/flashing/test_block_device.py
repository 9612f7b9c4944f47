"""Cards are written whole, read back, and never the wrong disk: on real loop devices where there are any."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.errors import FlashError
from devices.flashing.block_device import (
    BLOCK,
    Disk,
    disk_of,
    find_disk,
    require_card,
    require_said_twice,
    verify_image,
    write_image,
)
from devices.flashing.card_writing import add_writing, require_target, write_to_card

MIB = 2**20
CARD = Disk(Path("/dev/sdz"), 32 * 10**9, "disk", True, False, "Card Reader", ())


def described(**changes: object) -> dict[str, object]:
    """A card in a reader, as lsblk describes it."""
    usual = {"path": "/dev/sdz", "size": 32 * 10**9, "type": "disk", "rm": True, "hotplug": True, "ro": False}
    return usual | {"tran": "usb", "model": "Card Reader", "mountpoints": [None]} | changes


def quietly(count: int) -> None:
    pass


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "card.img"
    path.write_bytes(os.urandom(5 * MIB + 4096))
    return path


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A block device of so many bytes that is a file of the test's."""
    made: list[Path] = []

    def make(size: int) -> Path:
        backing = tmp_path / f"disk-{len(made)}"
        with backing.open("wb") as file:
            file.truncate(size)
        done = subprocess.run(["losetup", "--find", "--show", backing], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip("needs loop devices, and the right to make them")
        made.append(Path(done.stdout.strip()))
        return made[-1]

    yield make
    for device in made:
        subprocess.run(["losetup", "--detach", device], check=True)


def arguments(device: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_writing(parser)
    return parser.parse_args(["--write", str(device), *more])


def test_an_image_is_written_to_a_block_device_and_read_back(loop_device, image, capsys) -> None:
    device = loop_device(8 * MIB)
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return f"{device}\n"

    said = write_to_card(image, arguments(device, "--any-disk"), answer)
    assert len(asked) == 2
    assert "will be lost" in asked[0]
    assert "read back and right" in said
    assert device.read_bytes()[: image.stat().st_size] == image.read_bytes()
    assert find_disk(device).size == 8 * MIB


def test_scripts_say_the_device_twice(loop_device, image) -> None:
    device = loop_device(8 * MIB)
    once = arguments(device, "--any-disk", "--yes-erase", str(device))
    with pytest.raises(FlashError, match="was not said twice"):
        write_to_card(image, once)
    write_to_card(image, arguments(device, "--any-disk", *(2 * ("--yes-erase", str(device)))))


def test_a_disk_that_is_mounted_is_refused_though_all_say_yes(loop_device, image, tmp_path) -> None:
    device = loop_device(8 * MIB)
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    place = tmp_path / "mounted"
    place.mkdir()
    if subprocess.run(["mount", device, place], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        with pytest.raises(FlashError, match=f"in use at {place}"):
            require_target(arguments(device, "--any-disk"), MIB)
        with pytest.raises(FlashError, match="cannot be written"):
            write_image(image, device, quietly)
    finally:
        subprocess.run(["umount", place], check=True)


def test_this_machines_own_disk_is_refused() -> None:
    listed = subprocess.run(["lsblk", "--json", "-o", "PATH,MOUNTPOINTS"], capture_output=True, check=True)
    mounted = json.loads(listed.stdout)
    own = [one["path"] for one in mounted["blockdevices"] if "/" in one["mountpoints"]]
    if not own:
        pytest.skip("no block device is mounted at /")
    with pytest.raises(FlashError, match="in use at"):
        require_card(find_disk(Path(own[0])), MIB, any_disk=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "part"}, "is a part, expected a whole disk"),
        ({"mountpoints": ["/"]}, "in use at /;"),
        ({"mountpoints": ["[SWAP]"]}, r"in use at \[SWAP\]"),
        ({"children": [described(type="part", mountpoints=["/home"])]}, "in use at /home"),
        (
            {"children": [described(type="part", children=[described(path="/dev/md0", type="raid1")])]},
            "in use at /dev/md0",
        ),
        ({"ro": True}, "is read-only"),
        ({"size": 10**6}, "is too small: the image has 0.0 GB"),
        ({"size": 600 * 10**9}, "larger than any card, at most 512 GB"),
        ({"rm": False, "hotplug": False, "tran": "sata"}, "is a fixed disk"),
    ],
)
def test_what_is_no_card_is_refused(changes, message) -> None:
    require_card(disk_of(described()), 10 * MIB)
    with pytest.raises(FlashError, match=rf"^/dev/sdz \(Card Reader.*{message}"):
        require_card(disk_of(described(**changes)), 10 * MIB)


def test_a_fixed_or_large_disk_is_for_those_who_say_so() -> None:
    fixed = disk_of(described(rm=False, hotplug=False, tran="nvme", size=10**12))
    require_card(fixed, 10 * MIB, any_disk=True)


def test_what_is_no_block_device_is_refused(tmp_path) -> None:
    with pytest.raises(FlashError, match="is not a block device"):
        find_disk(tmp_path)
    with pytest.raises(FlashError, match="No such file"):
        find_disk(tmp_path / "absent")


@pytest.mark.parametrize("said", [(), ("/dev/sdz",), ("/dev/sdz", "/dev/sdy"), ("y", "y"), 3 * ("/dev/sdz",)])
def test_a_device_must_be_said_two_times(said) -> None:
    with pytest.raises(FlashError, match="was not said twice"):
        require_said_twice(CARD, said)
    require_said_twice(CARD, ("/dev/sdz", "/dev/sdz"))


def test_a_device_that_ends_early_says_how_far_it_came(loop_device, image) -> None:
    device = loop_device(3 * MIB)
    with pytest.raises(FlashError, match=r"cannot be written beyond 3\.1 MB: No space left on device"):
        write_image(image, device, quietly)
    assert device.read_bytes()[:BLOCK] == bytes(BLOCK)


WRITER = """
import os, signal, sys
from pathlib import Path
from devices.flashing.block_device import write_image
left = [int(sys.argv[3])]
def cut(count):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
write_image(Path(sys.argv[1]), Path(sys.argv[2]), cut)
"""


@pytest.mark.parametrize("blocks", [1, 3, 5])
def test_a_card_whose_writing_was_cut_short_has_no_partition_table(image, tmp_path, blocks) -> None:
    device = tmp_path / "disk"
    device.write_bytes(b"\xff" * 8 * MIB)
    done = subprocess.run([sys.executable, "-c", WRITER, image, device, str(blocks)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert device.read_bytes()[:BLOCK] == bytes(BLOCK)
    assert device.read_bytes()[BLOCK : 2 * BLOCK] == image.read_bytes()[BLOCK : 2 * BLOCK]


@pytest.mark.parametrize("at", [0, 3 * MIB, 5 * MIB + 4095])
def test_a_device_that_forgets_is_found_out(image, tmp_path, at) -> None:
    device = tmp_path / "disk"
    device.write_bytes(bytes(8 * MIB))
    digest, size = write_image(image, device, quietly), image.stat().st_size
    verify_image(size, digest, device, quietly)
    with device.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(FlashError, match="does not hold what was written"):
        verify_image(size, digest, device, quietly)
    os.truncate(device, at)
    with pytest.raises(FlashError, match=r"it ends .* bytes too early"):
        verify_image(size, digest, device, quietly)


def test_all_of_an_image_is_counted_on_the_way(image, tmp_path) -> None:
    device, written, read = tmp_path / "disk", [], []
    device.write_bytes(bytes(8 * MIB))
    size = image.stat().st_size
    verify_image(size, write_image(image, device, written.append), device, read.append)
    assert (sum(written), sum(read)) == (size, size)

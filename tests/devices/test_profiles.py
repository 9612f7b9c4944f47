import json
import re
from pathlib import Path

import pytest

from devices.devices_command import main
from devices.errors import ProfileError
from devices.flashing.client_tree import unit
from devices.flashing.systems import SYSTEMS
from devices.profiles.profile import FOLDER, load_profile, load_profiles

ASKED = {
    "raspberry-pi-zero-2w", "raspberry-pi-3b-plus", "raspberry-pi-4", "raspberry-pi-5", "jetson-orin-nano",
    "jetson-orin-nx", "jetson-agx-orin", "generic-x86-64", "generic-arm64",
}  # fmt: skip


def test_every_profile_is_usable_and_says_where_its_figures_come_from() -> None:
    profiles = load_profiles()
    assert set(profiles) == ASKED
    for profile in profiles.values():
        for part in (profile.compute, profile.link, profile.power):
            assert re.search(r"estimate|github\.com|measured", part.source) or "HPL" in part.source
        assert {SYSTEMS[name].machine for name in profile.systems} == {profile.architecture}
    speeds = [profile.compute.multiply_accumulates for profile in profiles.values()]
    assert speeds == sorted(speeds)


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = (FOLDER / "raspberry-pi-4.toml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "board.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_service_may_use_all_the_threads_that_a_board_trains_with() -> None:
    for profile in load_profiles().values():
        for system in profile.systems:
            (quota,) = re.findall(r"^CPUQuota=(\d+)%$", unit(SYSTEMS[system]), re.MULTILINE)
            assert int(quota) >= 100 * profile.training.threads, profile.name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cores = 4", "cores = 0", "cores must be a whole number of at least 1, got 0"),
        ("cores = 4", "cores = true", "cores must be a whole number of at least 1, got True"),
        ("cores = 4\n", "", "cores must be given, got None"),
        ("cores = 4", "cores = 4\ncolour = 1", "key must be one of name, architecture"),
        ("up_bits", "upbits", "key must be one of link.up_bits"),
        ("up_bits = 10_000_000", "up_bits = inf", "link.up_bits must be a finite number above 0, got inf"),
        ("busy_watts = 7.2", "busy_watts = 1", "power.busy_watts must be at least 2.7 idle, got 1.0"),
        ("free_mb = 3400", "free_mb = 5000", "free_mb must be at most memory_mb, which is 4096, got 5000"),
        ("threads = 3", "threads = 5", "training.threads must be at most cores, which is 4, got 5"),
        ("memory_mb = 1700", "memory_mb = 4000", "training.memory_mb must be at most free_mb, which is 3400, got 4000"),
        ("max_temperature = 75", "max_temperature = 0", "training.max_temperature must be a finite number above 0"),
        ("threads = 3", "threads = 3\ncolour = 1", "key must be one of training.threads"),
        ('"bookworm"', '"bullseye"', "systems must be a list of bookworm, trixie"),
        ("[link]", "[[link]]", "link must be a table"),
        ("source =", "source = 3 #", "compute.source must be a text, got 3"),
        ("name =", "name == ", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = changed(tmp_path, old, new)
    with pytest.raises(ProfileError, match=f"^{re.escape(str(path))}.*{re.escape(message)}"):
        load_profile(path)


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ASKED)
    assert main(["profiles", "--json"]) == 0
    listed = {one["id"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(listed) == ASKED
    board = listed["raspberry-pi-4"]
    assert board["compute"]["multiply_accumulates"] == 3e9
    assert board["training"]["max_temperature"] == 75
    assert board["software"]["trixie"] == {"python": "3.13", "onnxruntime": "1.32.0"}
    assert listed["jetson-orin-nano"]["software"] == {"jetpack6": {"python": "3.10", "onnxruntime": "1.23.2"}}

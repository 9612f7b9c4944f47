from pathlib import Path

import pytest

from edge_client.board_sensors import on_metered_link, throttled


def sysfs(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return folder


PI = "devices/platform/soc/soc:firmware/get_throttled"
PI_5 = "devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
DEBIAN_ON_A_PI = "class/hwmon/hwmon1"
COOLING = "class/thermal/cooling_device0"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({PI: "0"}, False),
        ({PI: "1"}, True),
        ({PI: "4"}, True),
        ({PI: "50000"}, False),
        ({PI_5: "50005"}, True),
        ({PI: "no number"}, None),
        ({f"{DEBIAN_ON_A_PI}/name": "rpi_volt", f"{DEBIAN_ON_A_PI}/in0_lcrit_alarm": "1"}, True),
        ({f"{DEBIAN_ON_A_PI}/name": "rpi_volt", f"{DEBIAN_ON_A_PI}/in0_lcrit_alarm": "0"}, False),
        ({f"{DEBIAN_ON_A_PI}/name": "other", f"{DEBIAN_ON_A_PI}/in0_lcrit_alarm": "1"}, None),
        ({f"{COOLING}/type": "thermal-cpufreq-0", f"{COOLING}/cur_state": "2"}, True),
        ({f"{COOLING}/type": "pwm-fan", f"{COOLING}/cur_state": "2"}, None),
        ({f"{COOLING}/type": "thermal-cpufreq-0", f"{COOLING}/cur_state": "0", PI: "8"}, True),
    ],
)
def test_a_board_says_whether_it_is_slowed_down(tmp_path, files, expected):
    assert throttled(sysfs(tmp_path, files)) is expected


@pytest.mark.parametrize(
    ("said", "expected"), [("u 1", True), ("u 2", False), ("u 3", True), ("u 4", False), ("u 0", None), ("", None)]
)
def test_what_network_manager_says_of_the_link(said, expected):
    assert on_metered_link(["echo", said]) is expected


def test_a_machine_without_network_manager_knows_nothing_of_its_link():
    assert on_metered_link(["/nonexistent/busctl"]) is None
    assert on_metered_link() in (None, True, False)

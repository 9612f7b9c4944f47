"""`fisherfleet-edge doctor` on devices with one thing wrong, which it must name; broker and web server are real."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from edge_client.__main__ import main
from edge_client.config import load_config
from edge_client.doctor.examine import examine
from edge_client.doctor.folders import examine_data, examine_disk, examine_keys, examine_ledger, examine_owners
from edge_client.doctor.machine import examine_clock
from edge_client.doctor.packages import examine_onnxruntime, examine_packages, examine_provider
from edge_client.doctor.peers import examine_broker, examine_server
from edge_client.privacy.ledger_files import LEDGER_FILE
from edge_client.updates.launch import OWN_VERSION
from tests.edge_client.scripted_server import broker, needs_mosquitto, web_server
from tests.edge_client.test_command import write_config
from tests.edge_client.test_tls_link import Authority

ROOT = Path(__file__).parents[3]
SECONDS = 5.0
PAGES = {"/health/live": b'"ok"'}


def write_device(folder: Path, **changes) -> Path:
    np.savez(folder / "d.npz", x=np.zeros((2, 3), np.float32), y=np.zeros(2, int))
    return write_config(folder, **changes)


@contextmanager
def surroundings(folder: Path):
    with broker(folder) as port, web_server(PAGES) as (url, _asked):
        yield write_device(folder, broker=f"mqtt://127.0.0.1:{port}", server=url)


@needs_mosquitto
def test_a_device_that_is_right_has_nothing_wrong_but_perhaps_its_clock(tmp_path, capsys):
    with surroundings(tmp_path) as config:
        status = main(["doctor", "--json", "--config", str(config)])
    report = json.loads(capsys.readouterr().out)
    assert {one["check"] for one in report["findings"] if one["level"] != "good"} <= {"clock", "temperature"}
    assert status == {"good": 0, "weak": 1}[report["verdict"]]
    assert {
        "Python",
        "packages",
        "onnxruntime",
        "device.toml",
        "keys",
        "data",
        "ledger",
        "disk",
        "server",
        "broker",
    } <= {one["check"] for one in report["findings"]}


@needs_mosquitto
@pytest.mark.skipif(sys.platform != "linux", reason="only there a device tells its status")
def test_a_device_that_runs_keeps_its_connection(tmp_path):
    with surroundings(tmp_path) as config:
        command = [sys.executable, "-m", "edge_client", "--config", str(config)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as device:
            assert device.stderr is not None
            assert "connected" in device.stderr.readline()
            (found,) = examine_broker(load_config(config), SECONDS)
            device.terminate()
            rest = device.stderr.read()
    assert (found.level, found.text) == ("good", f"the device runs and is connected to {load_config(config).broker}")
    assert "no link" not in rest


def break_key(config: Path) -> None:
    (config.parent / "identity" / "device.key").chmod(0o640)


def break_data(config: Path) -> None:
    np.savez(config.parent / "d.npz", x=np.full((2, 3), np.nan), y=np.zeros(2, int))


def break_ledger(config: Path) -> None:
    (config.parent / "state").mkdir()
    (config.parent / "state" / LEDGER_FILE).write_bytes(b"1 a charge that nobody made\n")


def break_disk(config: Path) -> None:
    (config.parent / "state").write_text("a file in its place")


def break_owner(config: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to give a file away")
    os.chown(config.parent / "d.npz", 65534, -1)


@pytest.mark.parametrize(
    ("break_it", "check", "level", "text"),
    [
        (break_key, examine_keys, "bad", "chmod 600"),
        (break_data, examine_data, "bad", "NaN or infinity"),
        (break_ledger, examine_ledger, "bad", LEDGER_FILE),
        (break_disk, examine_disk, "bad", "cannot be written"),
        (break_owner, examine_owners, "weak", "belong to 2 users"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, break_it, check, level, text):
    config = write_device(tmp_path)
    assert [one.level for one in check(load_config(config)) if one.level != "good"] == []
    break_it(config)
    (found,) = check(load_config(config))
    assert (found.level, text in found.text + found.advice) == (level, True), found


@pytest.mark.parametrize(("days", "level"), [(-0.5, "bad"), (20, "weak"), (90, "good")])
def test_a_certificate_that_ends_is_named_in_time(tmp_path, days, level):
    config = write_device(tmp_path, broker="mqtts://127.0.0.1:9")
    Authority.new("authority").issue(tmp_path / "identity", "tls", "pi", end=timedelta(days=days))
    _keys, certificate = examine_keys(load_config(config))
    assert (certificate.check, certificate.level) == ("certificate", level)


def test_another_devices_certificate_is_named(tmp_path):
    config = write_device(tmp_path, broker="mqtts://127.0.0.1:9")
    Authority.new("authority").issue(tmp_path / "identity", "tls", "other")
    (found,) = examine_keys(load_config(config))
    assert (found.level, "was issued for device 'other'" in found.text) == ("bad", True)


def test_peers_that_are_not_there_are_named(tmp_path):
    config = load_config(write_device(tmp_path))
    (broker_found,) = examine_broker(config, SECONDS)
    (server_found,) = examine_server(config, SECONDS)
    assert (broker_found.level, server_found.level) == ("bad", "weak")
    assert "Connection refused" in broker_found.text
    assert "http://127.0.0.1:9 cannot be reached" in server_found.text


def test_a_device_that_must_fetch_by_http_cannot_do_without_its_server(tmp_path):
    (found,) = examine_server(load_config(write_device(tmp_path, download="http")), SECONDS)
    assert found.level == "bad"


@pytest.mark.parametrize(("ahead", "text"), [(0.0, "agrees"), (-7200.0, "behind"), (7200.0, "ahead of")])
def test_the_servers_clock_is_compared(tmp_path, ahead, text):
    import time  # noqa: PLC0415 - the test's own clock

    with web_server(PAGES) as (url, _asked):
        config = load_config(write_device(tmp_path, server=url))
        answers, clock = examine_server(config, SECONDS, lambda: time.time() + ahead)
    assert (answers.level, clock.level) == ("good", "weak" if ahead else "good")
    assert text in clock.text


def test_a_clock_that_was_never_set_is_named(monkeypatch):
    monkeypatch.setattr("time.time", lambda: 86_400.0)
    (found,) = examine_clock()
    assert (found.level, "never set" in found.text) == ("bad", True)


def test_a_file_that_cannot_be_read_ends_nothing(tmp_path):
    config = tmp_path / "device.toml"
    config.write_text("device = ")
    last = examine(config, SECONDS)[-1]
    assert (last.check, last.level) == ("device.toml", "bad")
    assert "cannot be read as TOML" in last.text


def test_a_device_that_has_yet_to_enrol_is_told_from_a_broken_one(tmp_path):
    (tmp_path / "enrol.toml").touch()
    assert "has not enrolled yet" in examine(tmp_path / "device.toml", SECONDS)[-1].text


@pytest.mark.parametrize(("provider", "levels"), [("cpu", []), ("auto", ["good"]), ("cuda", ["weak"])])
def test_a_gpu_that_is_asked_for_is_tried(tmp_path, provider, levels):
    found = examine_provider(load_config(write_device(tmp_path, provider=provider)))
    if found and "agrees with the processor" in found[0].text:
        pytest.skip("this machine has a GPU")
    assert [one.level for one in found] == levels
    assert all("was built without CUDAExecutionProvider" in one.text for one in found)


@pytest.mark.parametrize(
    ("updates", "launched", "levels"),
    [("client = true", False, ["bad"]), ("client = true", True, ["good"]), ("models = true", False, [])],
)
def test_updates_of_a_client_that_nothing_would_go_back_from_are_named(
    tmp_path, monkeypatch, updates, launched, levels
):
    config = write_device(tmp_path)
    config.write_text(f"{config.read_text()}\n[updates]\n{updates}\n")
    monkeypatch.setenv(OWN_VERSION, "0.1.0") if launched else monkeypatch.delenv(OWN_VERSION, raising=False)
    found = [one for one in examine(config, SECONDS) if one.check == "updates"]
    assert [one.level for one in found] == levels
    assert all(("was not started by the launcher" in one.text) != launched for one in found)


def test_two_runtimes_in_one_environment_are_named(tmp_path, monkeypatch):
    for name in ("onnxruntime", "onnxruntime_gpu"):
        (tmp_path / f"{name}-1.0.dist-info").mkdir()
        (tmp_path / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = examine_onnxruntime()
    assert (found.level, "overwrite each other" in found.text) == ("bad", True)


def test_a_package_that_does_not_load_is_named(tmp_path, monkeypatch):
    (tmp_path / "zstandard").mkdir()
    (tmp_path / "zstandard" / "__init__.py").write_text("raise OSError('wrong ELF class')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "zstandard", raising=False)
    (found,) = examine_packages()
    assert found.text == "zstandard cannot be loaded: wrong ELF class"


def test_without_any_package_it_still_says_so(tmp_path):
    """Isolated, and with no site-packages: nothing but Python is there."""
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from edge_client.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-I", "-S", "-c", code, str(ROOT), "doctor", "--config", str(write_device(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "")
    assert "FAIL  packages     msgspec is not installed" in done.stdout
    assert "OK    device.toml  pi at" in done.stdout

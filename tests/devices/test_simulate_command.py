import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from devices.emulation.report import Simulation, decode_report
from devices.emulation.report_page import MOST_DEVICES, render_report
from devices.emulation.simulate_command import main

SMALL = ("--devices", "12", "--rounds", "2", "--local-steps", "2", "--participation", "0.5", "--link", "500k-5M")


def simulate(*arguments: str) -> int:
    return main([*SMALL, *arguments])


def test_a_run_leaves_its_results_and_says_what_became_of_the_fleet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert simulate("--out", str(out)) == 0
    shown = capsys.readouterr().out
    assert re.search(r"round \d+/2: \d+/\d+ devices, .* late, at [\d.]+ s", shown)
    assert re.search(r"of fleet time, [\d.]+ % of turns heard, about [\d.]+ k?J", shown)
    assert "raspberry-pi-zero-2w" in shown
    report = decode_report((out / "report.json").read_bytes())
    simulation = report.simulation
    assert isinstance(simulation, Simulation)
    assert {kind.profile: kind.devices for kind in simulation.kinds} == {
        "raspberry-pi-zero-2w": 5, "raspberry-pi-4": 3, "jetson-orin-nano": 2, "raspberry-pi-5": 2,
    }  # fmt: skip
    assert sum(kind.turns for kind in simulation.kinds) == sum(entry.turns for entry in simulation.rounds)
    assert sum(kind.fates["heard"] for kind in simulation.kinds) == report.totals.updates_accepted
    assert [entry.round for entry in simulation.rounds] == [entry.round for entry in report.rounds]
    assert simulation.seconds == simulation.rounds[-1].closed > 0
    assert simulation.joules == pytest.approx(sum(kind.joules for kind in simulation.kinds))
    page = (out / "report.html").read_text()
    assert all(text in page for text in ("Virtual fleet", "Fleet time", "Raspberry Pi Zero 2 W", "Heard in time"))
    session = onnxruntime.InferenceSession(out / "predict.onnx")
    predicted = session.run(None, {session.get_inputs()[0].name: np.zeros((1, 1, 8, 8), dtype=np.float32)})
    assert predicted[0].shape == (1, 10)


def test_equal_seeds_give_equal_reports_but_for_the_time_they_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = []
    for seed in ("1", "1", "2"):
        assert simulate("--seed", seed, "--out", str(tmp_path / "run"), "--json") == 0
        report = json.loads(capsys.readouterr().out)
        del report["totals"]["seconds"]
        reports.append(report)
    assert reports[0] == reports[1] != reports[2]


def test_full_models_are_trained_whole_by_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("--full", "--mix", "raspberry-pi-5", "--out", str(tmp_path / "run"), "--json") == 0
    report = decode_report(capsys.readouterr().out.encode())
    assert isinstance(report.simulation, Simulation)
    assert not report.simulation.fitted
    assert [kind.least_kept for kind in report.simulation.kinds] == [1.0]
    assert report.totals.compute_fraction == 1.0


def test_any_number_of_devices_draws_its_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--devices", "3000", "--participation", "0.002", "--examples", "20", "--out", str(tmp_path / "run"))
    assert simulate(*more, "--json") == 0
    report = decode_report(capsys.readouterr().out.encode())
    assert report.config.devices == 3000
    assert {device.examples for device in report.devices} == {20}
    assert len(report.devices) < 30


def test_a_page_of_many_devices_shows_the_first_of_them(tmp_path: Path) -> None:
    simulate("--out", str(tmp_path / "run"))
    report = decode_report((tmp_path / "run" / "report.json").read_bytes())
    many = [type(report.devices[0])(id=f"d{n}", kept={}, examples=1) for n in range(3000)]
    page = render_report(type(report)(**{**{f: getattr(report, f) for f in report.__struct_fields__}, "devices": many}))
    assert f"The first {MOST_DEVICES} of 3000 devices" in page
    assert len(page) < 500_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mix", "toaster=1"), "mix must be of the profiles"),
        (("--availability", "0"), "availability must be above 0 and at most 1, got 0.0"),
        (("--workers", "0"), "workers must be at least 1, got 0"),
        (("--participation", "0"), "participation must be above 0 and at most 1, got 0.0"),
        (("--examples", "100000"), "examples must be 1 to "),
        (("--devices", "1000"), "training examples are too few for 1000 devices"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert simulate(*arguments, "--out", str(tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("fisherfleet simulate: ")
    assert message in error


@pytest.mark.parametrize(
    "arguments", [("--mix", "a=b"), ("--link", "fast"), ("--link", "1-2-3"), ("--link", "0"), ("--link", "20M-250k")]
)
def test_options_that_cannot_be_read_are_explained(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit):
        simulate(*arguments)
    assert "must be" in capsys.readouterr().err


def test_without_ray_its_engine_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert simulate("--engine", "ray", "--out", str(tmp_path / "run")) == 2
    assert capsys.readouterr().err == (
        "fisherfleet simulate: engine ray needs Ray: pip install -r requirements-ray.txt\n"
    )

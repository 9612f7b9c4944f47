"""`fisherfleet privacy plan` from the command line."""

import json

import pytest

from devices.command_line import main

PROMISE = ["privacy", "plan", "--epsilon", "4", "--delta", "1e-5"]
DEVICE = [*PROMISE, "--rounds", "3", "--mode", "device"]
RECORD = [*PROMISE, "--rounds", "20", "--local-steps", "10", "--sampling-rate", "0.05"]
SCORES = ["--score-noise-multiplier", "20", "--resync-every", "5"]


def test_noise_table_and_promise_are_printed(capsys):
    assert main([*RECORD, *SCORES]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Noise multiplier 1.169: standard deviation 1.169 times the clip norm")
    assert "20 times the clip norm's square on Fisher scores, in 4 of 20 rounds." in " ".join(text.split())
    rows = [line.split() for line in text.splitlines() if line[:8].strip().isdigit()]
    assert [row[0] for row in rows] == ["1", *map(str, range(2, 21, 2))]
    assert 3.98 < float(rows[-1][2]) <= 4
    assert all(float(tight) < float(ledger) for _, tight, ledger in rows)
    assert "Record privacy at epsilon 4 and delta 1e-05" in text
    assert "Not covered" in text
    assert max(map(len, text.splitlines())) <= 100


def test_device_mode_says_so(capsys):
    assert main(DEVICE) == 0
    text = capsys.readouterr().out
    assert "on every value of an update" in text
    assert "all records of the device" in " ".join(text.split())


@pytest.mark.parametrize("arguments", [DEVICE, [*RECORD, *SCORES]])
def test_counts_of_what_is_clipped_take_more_noise_for_the_same_promise(arguments, capsys):
    assert main([*arguments, "--count-noise-multiplier", "8", "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    expected = (alone["noise_multiplier"] ** -2 - 8**-2) ** -0.5
    assert counted["noise_multiplier"] == pytest.approx(expected, rel=1e-3)
    assert counted["rounds"][-1]["ledger"] == pytest.approx(alone["rounds"][-1]["ledger"], rel=2e-3)
    assert main([*arguments, "--count-noise-multiplier", "8"]) == 0
    assert "and 4 on how many are within it" in " ".join(capsys.readouterr().out.split())


def test_json_has_the_plan(capsys):
    assert main([*RECORD, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["mode"] == "record"
    assert plan["target"] == {"epsilon": 4.0, "delta": 1e-5}
    assert plan["schedule"]["local_steps"] == 10
    ledger = [entry["ledger"] for entry in plan["rounds"]]
    assert ledger == sorted(ledger)
    assert plan["rounds"][-1]["round"] == 20


@pytest.mark.parametrize(("name", "start"), [("plan.svg", b"<?xml"), ("plan.png", b"\x89PNG")])
def test_the_plot_is_written_in_the_kind_that_its_name_says(tmp_path, name, start, capsys):
    for file in (tmp_path / name, tmp_path / f"again-{name}"):
        assert main([*DEVICE, "--plot", str(file)]) == 0
    assert (tmp_path / name).read_bytes().startswith(start)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"again-{name}").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([*RECORD, "--epsilon", "0"], "epsilon must be 0.05 to 50, got 0.0"),
        ([*RECORD, "--rounds", "0"], "rounds must be 1 to 1000000, got 0"),
        ([*RECORD, "--sampling-rate", "2"], "sampling_rate must be 1e-09 to 1, got 2.0"),
        ([*PROMISE, "--rounds", "3"], "local_steps must be given, as mode is record, got None"),
        ([*RECORD, "--mode", "device"], "local_steps must be left out, as mode is device, got 10"),
        ([*RECORD, *SCORES[:2]], "resync_every must be given with --score-noise-multiplier and only then, got None"),
        ([*RECORD, *SCORES[2:]], "resync_every must be given with --score-noise-multiplier and only then, got 5"),
        ([*RECORD, "--plot", "plan.pdf"], "plot must be a file name that ends in .svg or .png, got 'plan.pdf'"),
        ([*RECORD, "--plot", "none/plan.svg"], "plot must be in a folder that exists, got 'none/plan.svg'"),
    ],
)
def test_mistakes_are_explained_in_a_line(arguments, text, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"fisherfleet privacy: {text}\n"


def test_a_plot_that_cannot_be_written_is_explained(tmp_path, capsys):
    (tmp_path / "plan.svg").mkdir()
    assert main([*DEVICE, "--plot", str(tmp_path / "plan.svg")]) == 2
    assert "cannot be written" in capsys.readouterr().err

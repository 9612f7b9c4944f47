"""`fisherfleet runs | devices | models` over HTTP."""

import os

import numpy as np
import safetensors.numpy

from server.console.link import SERVER_VARIABLE
from server.records import DeviceRecord, OpeningRecord, RoundRecord
from wire_protocol.enrolment import split_token


def _closed(number: int) -> RoundRecord:
    names = ("updates_accepted", "updates_rejected", "bytes_up", "bytes_down", "bytes_up_dense", "bytes_down_dense")
    macs = dict.fromkeys(("trained_macs", "scored_macs", "full_macs"), 1)
    counts = dict.fromkeys(names, 2000)
    return RoundRecord(number, True, 0.5, None, **counts, **macs, seconds=1.0, model_version=number)


async def test_a_run_is_made_and_ordered_about(typed, read, sources, bundle_folder, bundle, tmp_path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('rounds = 7\nprivacy = "none"\n[training]\nmomentum = 0.5\n')
    create = ("runs", "create", "digits", "--bundle", str(bundle_folder), "--config", str(config), "--set", "rounds=3")
    run = await read(*create, "--set", "training.optimizer=adam")
    assert (run["bundle"], run["status"]) == (bundle.id, "created")
    assert (run["config"]["rounds"], run["config"]["training"]["momentum"]) == (3, 0.5)
    assert run["config"]["training"]["optimizer"] == "adam"
    assert (await typed("runs", "start", "digits"))[1] == "run digits is running; 0 of 3 rounds are closed\n"
    for order, status in (("pause", "paused"), ("resume", "running"), ("resync", "running"), ("stop", "stopped")):
        assert (await read("runs", order, "digits"))["status"] == status
    np.savez(tmp_path / "test.npz", x=np.zeros((2, 3), np.float32), y=[0, 1])
    more = ("runs", "create", "more", "--bundle", bundle.id, "--set", "privacy=none")
    again = await read(*more, "--test", str(tmp_path / "test.npz"), "--start")
    assert again["status"] == "running"
    assert len(sources.files.test("more")) == 2
    assert (await read("runs", "clone", "digits", "digits-2"))["config"]["rounds"] == 3
    assert [one["run"] for one in await read("runs", "list")] == ["digits-2", "more", "digits"]
    table = (await typed("runs", "list"))[1].splitlines()
    assert [line.split()[:4] for line in table[1:]][-1] == ["digits", "stopped", "0", "3"]
    assert "momentum" in (await typed("runs", "show", "digits"))[1]


async def test_a_run_that_is_over_is_watched_to_its_end(typed, store, bundle, make_plan) -> None:
    created = ("runs", "create", "run", "--bundle", bundle.id, "--set", "privacy=none")
    assert (await typed(*created))[0] == 0
    for number in (1, 2):
        store.open_round(OpeningRecord(make_plan(round=number, resync_round=1), frozenset("a"), 1.0))
        store.close_round("run", _closed(number))
    await typed("runs", "stop", "run")
    status, text, _ = await typed("runs", "watch", "run")
    assert status == 0
    lines = [line.split(":")[0] for line in text.splitlines()]
    assert lines == ["round 1", "round 2", "run run is stopped; 2 of 40 rounds are closed"]
    assert len((await typed("runs", "rounds", "run"))[1].splitlines()) == 3


async def test_devices_are_found_tagged_and_revoked(typed, read, store, fleet) -> None:
    hot = DeviceRecord("b", True, 5, "portable", "0.1.0", 2.0, temperature=71.4, paused="too hot", budget_left=0.25)
    store.save_devices([hot])
    assert [one["id"] for one in await read("devices", "list", "--online")] == ["b"]
    assert [one["id"] for one in await read("devices", "list", "--offline")] == list("acdef")
    assert (await read("devices", "tag", "a", "attic", "pi"))["tags"] == ["attic", "pi"]
    assert [one["id"] for one in await read("devices", "list", "--tag", "pi")] == ["a"]
    assert "attic" in (await typed("devices", "show", "a"))[1]
    assert (await typed("devices", "list"))[1].splitlines()[2].split()[:3] == ["b", "enrolled", "yes"]
    assert (await typed("devices", "list"))[1].splitlines()[2].split()[5:] == ["71", "0.25", "too", "hot", "0.1.0"]
    held = await typed("devices", "quarantine", "b", "--reason", "loose cable")
    assert held[1] == "b is quarantined: loose cable\n"
    assert [one["id"] for one in await read("devices", "list", "--standing", "quarantined")] == ["b"]
    assert (await typed("devices", "release", "b"))[1] == "b is enrolled\n"
    status, _, error = await typed("devices", "revoke", "nobody")
    assert (status, "'nobody'" in error) == (2, True)
    assert (await typed("devices", "profiles"))[0] == 0


async def test_an_enrolment_token_is_printed_alone(typed, sources) -> None:
    (sources.fleet.authority).mkdir()
    (sources.fleet.authority / "ca.pem").write_text("a certificate")
    status, text, _ = await typed("devices", "enrol-token", "--devices", "3", "--hours", "2")
    assert status == 0
    assert len(split_token(text.strip())[1]) == 22


async def test_models_are_listed_fetched_and_promoted(typed, read, sources, models, weights, tmp_path) -> None:
    (bundle,) = sources.files.bundles()
    await typed("runs", "create", "run", "--bundle", bundle, "--set", "privacy=none")
    sources.store.archive.add("run", _closed(1), models.save_version(1, weights))
    assert [one["version"] for one in await read("models", "list", "run")] == [1]
    assert (await typed("models", "promote", "run", "1"))[0] == 0
    target = tmp_path / "out.safetensors"
    words = ("models", "download", "run", "promoted", "--format", "safetensors", "--out", str(target))
    assert (await read(*words))["bytes"] == target.stat().st_size
    assert (safetensors.numpy.load_file(target)["w1"] == weights["w1"]).all()
    assert "promoted" in (await typed("models", "list", "run"))[1]
    status, _, error = await typed("models", "download", "run", "7", "--out", str(target))
    assert (status, "version 7" in error) == (2, True)


async def test_what_is_wrong_is_said_in_one_line(typed, monkeypatch, tmp_path) -> None:
    for words, said in (
        (("runs", "show", "nobody"), "'nobody'; `fisherfleet runs list` lists those there are"),
        (("devices", "tag", "nobody", "x"), "'nobody'; `fisherfleet devices list` lists those there are"),
        (("devices", "halt-update", "77"), "no rollout 77; `fisherfleet devices updates` lists them"),
        (
            ("tokens", "revoke", "nobody", "--server", os.environ[SERVER_VARIABLE]),
            "'nobody'; `fisherfleet tokens list` lists those there are",
        ),
        (("devices", "update", "9.9.9"), "no release '9.9.9'; GET /api/v1/releases lists them"),
        (("runs", "create", "x", "--bundle", "0" * 64, "--set", "rounds"), "NAME=VALUE"),
        (("runs", "create", "x", "--bundle", "0" * 64, "--config", str(tmp_path / "absent")), "absent: No such file"),
        (("runs", "list", "--server", "http://127.0.0.1:9"), "cannot be asked"),
    ):
        status, _, error = await typed(*words)
        assert (status, said in error, error.count("\n")) == (2, True, 1)
    monkeypatch.delenv("FISHERFLEET_TOKEN")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert "no token" in (await typed("runs", "list"))[2]
    file = tmp_path / "fisherfleet" / "token"
    file.parent.mkdir()
    file.write_text("fft_wrong\n")
    assert "chmod 600" in (await typed("runs", "list"))[2]
    file.chmod(0o600)
    assert "unknown, revoked or expired" in (await typed("runs", "list"))[2]

"""What a run's options say about privacy, and the words for it."""

import argparse
from dataclasses import replace

import pytest

from server.config import RunConfig
from server.privacy.calibration import ledger_epsilon
from server.privacy.run_words import DELTA, NOT_PRIVATE, run_words, schedule_of_run
from server.privacy_options import add_privacy_options, take_privacy
from wire_protocol.errors import InvalidValueError
from wire_protocol.privacy import DevicePrivacy, RecordPrivacy

RUN = {"rounds": 10, "local_steps": 5, "resync_every": 5, "selection": "random"}


def taken(*words: str, **run: object) -> object:
    parser = argparse.ArgumentParser()
    add_privacy_options(parser, required=True)
    return take_privacy({**RUN, **run, **vars(parser.parse_args(words))})


def test_no_privacy_must_be_said_in_words() -> None:
    assert taken("--privacy=none") is None
    with pytest.raises(InvalidValueError, match="privacy is missing: say none, record, device"):
        taken()


def test_the_noise_is_given() -> None:
    record = taken("--privacy=record", "--clip-norm=2", "--noise-multiplier=1.5", "--sampling-rate=0.1")
    assert record == RecordPrivacy(2.0, 1.5, 0.1)
    assert taken("--privacy=device", "--clip-norm=2", "--noise-multiplier=1.5") == DevicePrivacy(2.0, 1.5)


@pytest.mark.parametrize("selection", ["random", "fisher", "fisher-cohort"])
def test_the_noise_is_found_for_an_epsilon_and_not_more_than_it_takes(selection: str) -> None:
    words = ["--privacy=record", "--clip-norm=2", "--epsilon=3", "--sampling-rate=0.1", "--score-noise-multiplier=30"]
    record = taken(*words, selection=selection)
    assert isinstance(record, RecordPrivacy)
    config = RunConfig(privacy=record, **RUN | {"selection": selection})
    schedule = schedule_of_run(config, record)
    spent = [ledger_epsilon(schedule.releases(noise, 10), 1e-5) for noise in (1.0, 0.98)]
    found, less = (ledger_epsilon(schedule.releases(record.noise_multiplier * part, 10), 1e-5) for part in (1.0, 0.99))
    assert found <= 3 < less
    assert spent[0] < spent[1]


def test_scores_of_a_trial_round_are_counted() -> None:
    config = RunConfig(rounds=11, resync_every=5, selection="fisher-cohort", privacy=RecordPrivacy(1.0, 1.0, 0.1, 9.0))
    schedules = [
        schedule_of_run(replace(config, selection=name), config.privacy) for name in ("fisher", "fisher-cohort")
    ]
    assert [[one.releases(1.0, rounds)[1].count for rounds in (1, 2, 6, 7, 11)] for one in schedules] == [
        [1, 1, 2, 2, 3], [1, 2, 2, 3, 3],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--privacy=none", "--clip-norm=1"], "clip_norm must not be given with --privacy none, got 1"),
        (["--privacy=device", "--clip-norm=1", "--sampling-rate=0.1"], "sampling_rate must not be given"),
        (["--privacy=record", "--sampling-rate=0.1", "--epsilon=3"], "clip_norm is missing"),
        (["--privacy=record", "--clip-norm=1", "--epsilon=3"], "sampling_rate is missing"),
        (["--privacy=device", "--clip-norm=1"], "either noise_multiplier or epsilon, got neither"),
        (["--privacy=device", "--clip-norm=1", "--epsilon=3", "--noise-multiplier=1"], "or epsilon, got both"),
        (["--privacy=device", "--clip-norm=-1", "--noise-multiplier=1"], "clip_norm must be from 1e-06 to 1e"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], complaint: str) -> None:
    with pytest.raises(InvalidValueError, match=complaint):
        taken(*words)


def test_words_for_a_run() -> None:
    assert run_words(RunConfig()) == NOT_PRIVATE
    config = RunConfig(rounds=10, privacy=DevicePrivacy(1.0, 20.0), selection="random")
    assert (
        f"Private for any one device: epsilon {ledger_epsilon(config.privacy.releases() * 10, DELTA):.3g}"
        in run_words(config)
    )
    record = replace(config, privacy=RecordPrivacy(1.0, 20.0, 0.5))
    assert "Private for any one record: epsilon" in run_words(record)
    assert "in all 10 rounds" in run_words(record)

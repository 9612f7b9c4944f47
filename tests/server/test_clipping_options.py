"""Options of a clip norm that moves, as every command that starts a run reads them."""

import argparse
from typing import Any

import pytest

from server.adaptive_clipping import ClipQuantile
from server.clipping_options import add_clipping_options, take_clipping
from server.config import RunConfig
from server.privacy.run_words import run_words
from server.privacy_options import add_privacy_options, take_privacy
from wire_protocol.errors import InvalidValueError
from wire_protocol.privacy import DevicePrivacy, RecordPrivacy

DEVICE = ("--privacy", "device", "--clip-norm", "2", "--noise-multiplier", "1")
RECORD = ("--privacy", "record", "--clip-norm", "2", "--noise-multiplier", "1", "--sampling-rate", "0.1")
MOVING = ("--clip-quantile", "0.5", "--count-noise-multiplier", "8")


def read(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_privacy_options(parser, required=True)
    add_clipping_options(parser)
    return vars(parser.parse_args(words))


def test_a_norm_stands_still_unless_a_quantile_is_given() -> None:
    for words in (DEVICE, RECORD, ("--privacy", "none")):
        assert take_clipping(read(*words)) is None
    assert take_privacy(read(*DEVICE)) == DevicePrivacy(2.0, 1.0)


def test_a_norm_that_moves() -> None:
    assert take_privacy(read(*DEVICE, *MOVING)) == DevicePrivacy(2.0, 1.0, 8.0)
    assert take_privacy(read(*RECORD, *MOVING)) == RecordPrivacy(2.0, 1.0, 0.1, count_noise_multiplier=8.0)
    assert take_clipping(read(*DEVICE, *MOVING)) == ClipQuantile(0.5, 0.2)
    assert take_clipping(read(*DEVICE, *MOVING, "--clip-rate", "0.4")) == ClipQuantile(0.5, 0.4)


def test_options_without_what_they_are_for_are_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"clip_rate must be left out, as clip_quantile is, got 0\.4"):
        take_clipping(read(*DEVICE, "--clip-rate", "0.4"))
    with pytest.raises(InvalidValueError, match="count_noise_multiplier must not be given with --privacy none"):
        take_privacy(read("--privacy", "none", "--count-noise-multiplier", "8"))


@pytest.mark.parametrize("words", [DEVICE, RECORD], ids=["device", "record"])
def test_a_run_says_what_values_and_counts_cost_together(words: tuple[str, ...]) -> None:
    run = {"rounds": 10, "local_steps": 5, "resync_every": 5, "selection": "random"}
    options = read(*[word for word in words if word not in ("--noise-multiplier", "1")], "--epsilon", "3", *MOVING)
    privacy = take_privacy({**run, **options})
    config = RunConfig(privacy=privacy, clipping=take_clipping(options), **run)
    assert "epsilon 3 at delta 1e-05" in run_words(config)
    assert "clip norm 2 at first, moving to the quantile 0.5" in run_words(config)

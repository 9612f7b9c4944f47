"""Options of privacy and of a clip norm that moves, as every command that starts a run reads them."""

import argparse
from typing import Any

import pytest

from server.adaptive_clipping import ClipQuantile
from server.privacy_options import add_privacy_options, take_clipping, take_privacy
from wire_protocol.errors import InvalidValueError
from wire_protocol.privacy import DevicePrivacy, RecordPrivacy

DEVICE = ("--privacy", "device", "--clip-norm", "2", "--noise-multiplier", "1")
RECORD = ("--privacy", "record", "--clip-norm", "2", "--noise-multiplier", "1", "--sampling-rate", "0.1")
MOVING = ("--clip-quantile", "0.5", "--count-noise-multiplier", "8")


def read(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_privacy_options(parser, required=True)
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
    with pytest.raises(InvalidValueError, match="clip_rate must be left out, as clip_quantile is, got 0.4"):
        take_clipping(read(*DEVICE, "--clip-rate", "0.4"))
    with pytest.raises(InvalidValueError, match="count_noise_multiplier must not be given with --privacy none"):
        take_privacy(read("--privacy", "none", "--count-noise-multiplier", "8"))

"""Command-line options of what a run's updates may tell, the same for every command that starts a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.adaptive_clipping import CLIP_RATE, ClipQuantile
from wire_protocol.errors import InvalidValueError, require
from wire_protocol.privacy import DevicePrivacy, Privacy, RecordPrivacy

_NEEDED = {
    "record": ("clip_norm", "noise_multiplier", "sampling_rate"),
    "device": ("clip_norm", "noise_multiplier"),
}
_ALLOWED = {
    "none": (),
    "record": (*_NEEDED["record"], "score_noise_multiplier", "count_noise_multiplier"),
    "device": (*_NEEDED["device"], "count_noise_multiplier"),
}
_VALUES = _ALLOWED["record"]
PRIVACY_OPTIONS = ("privacy", *_VALUES)
"""By their names as attributes."""
CLIPPING_OPTIONS = ("clip_quantile", "clip_rate")
"""The same, of a clip norm that moves."""


def add_privacy_options(group: Any, *, required: bool) -> None:
    """Add `--privacy` and what it takes to a parser or a group of one; where it is not `required` it is none.

    Options of a clip norm that moves are added too.
    """
    group.add_argument(
        "--privacy",
        choices=tuple(_ALLOWED),
        required=required,
        default=None if required else "none",
        help="none: updates tell of the examples as they are; record: no update tells much of any one example; "
        "device: nor of any one device (see `fisherfleet privacy plan`)",
    )
    for name, text in (
        (
            "clip_norm",
            "largest L2 norm of an example's gradient (record) or of an update (device); with clip_quantile the "
            "first round's",
        ),
        ("noise_multiplier", "the noise's standard deviation over that norm"),
        ("sampling_rate", "probability of an example to be in a step's batch (record)"),
        ("score_noise_multiplier", "the noise of Fisher scores over the norm's square (record)"),
        ("count_noise_multiplier", "twice the noise of how many are within that norm; with clip_quantile only"),
        ("clip_quantile", "share of gradients or updates that the norm moves to be the norm of, above 0 and below 1"),
        ("clip_rate", f"how fast it moves ({CLIP_RATE:g})"),
    ):
        group.add_argument(f"--{name.replace('_', '-')}", type=float, help=text)


def take_privacy(options: Mapping[str, Any]) -> Privacy | None:
    """What these options say, by their names as attributes; raises `InvalidValueError`."""
    mode = options["privacy"]
    given = {name: options[name] for name in _VALUES if options[name] is not None}
    for name in given.keys() - set(_ALLOWED[mode]):
        raise InvalidValueError(f"{name} must not be given with --privacy {mode}, got {given[name]}")
    if mode == "none":
        return None
    for name in _NEEDED[mode]:
        if name not in given:
            raise InvalidValueError(f"{name} is missing; --privacy {mode} needs {', '.join(_NEEDED[mode])}")
    return RecordPrivacy(**given) if mode == "record" else DevicePrivacy(**given)


def take_clipping(options: Mapping[str, Any]) -> ClipQuantile | None:
    """How the clip norm moves, None where it does not; raises `InvalidValueError`."""
    quantile, rate = (options[name] for name in CLIPPING_OPTIONS)
    if quantile is None:
        require(rate is None, "clip_rate", rate, "left out, as clip_quantile is")
        return None
    return ClipQuantile(quantile, CLIP_RATE if rate is None else rate)

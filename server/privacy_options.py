"""Command-line options of what a run's updates may tell, the same for every command that starts a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wire_protocol.errors import InvalidValueError
from wire_protocol.privacy import DevicePrivacy, Privacy, RecordPrivacy

_NEEDED = {
    "record": ("clip_norm", "noise_multiplier", "sampling_rate"),
    "device": ("clip_norm", "noise_multiplier"),
}
_ALLOWED = {"none": (), "record": (*_NEEDED["record"], "score_noise_multiplier"), "device": _NEEDED["device"]}
_VALUES = _ALLOWED["record"]
PRIVACY_OPTIONS = ("privacy", *_VALUES)
"""By their names as attributes."""


def add_privacy_options(group: Any, *, required: bool) -> None:
    """Add `--privacy` and what it takes to a parser or a group of one; where it is not `required` it is none."""
    group.add_argument(
        "--privacy",
        choices=tuple(_ALLOWED),
        required=required,
        default=None if required else "none",
        help="none: updates tell of the examples as they are; record: no update tells much of any one example; "
        "device: nor of any one device (see `fisherfleet privacy plan`)",
    )
    for name, text in (
        ("clip_norm", "largest L2 norm of an example's gradient (record) or of an update (device)"),
        ("noise_multiplier", "the noise's standard deviation over that norm"),
        ("sampling_rate", "probability of an example to be in a step's batch (record)"),
        ("score_noise_multiplier", "the noise of Fisher scores over the norm's square (record)"),
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

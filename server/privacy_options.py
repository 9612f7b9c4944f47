"""Command-line options of what a run's updates may tell, the same for every command that starts a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.privacy.noise_target import within_target
from server.privacy.run_releases import private_schedule
from server.privacy.run_words import DELTA
from wire_protocol.errors import InvalidValueError
from wire_protocol.privacy import DevicePrivacy, Privacy, RecordPrivacy

_OPTIONS = {
    "none": {},
    "record": {
        "clip_norm": True,
        "sampling_rate": True,
        "noise_multiplier": False,
        "score_noise_multiplier": False,
        "count_noise_multiplier": False,
    },
    "device": {"clip_norm": True, "noise_multiplier": False, "count_noise_multiplier": False},
}
"""What goes with each word, and whether it must."""
_TARGET = ("epsilon", "delta")
_VALUES = (*_OPTIONS["record"], *_TARGET)
PRIVACY_OPTIONS = ("privacy", *_VALUES)
"""By their names as attributes."""


def add_privacy_options(group: Any, *, required: bool) -> None:
    """Add `--privacy` and what it takes to a parser or a group of one; it is none by default, or where it is `required`
    `take_privacy` asks for it.
    """
    group.add_argument(
        "--privacy",
        choices=tuple(_OPTIONS),
        default=None if required else "none",
        help="none: updates tell of the examples as they are; record: no update tells much of any one example; "
        "device: nor of any one device" + ("" if required else " (default: none)"),
    )
    for name, text in (
        ("clip_norm", "largest L2 norm of an example's gradient (record) or of an update (device)"),
        ("sampling_rate", "probability of an example to be in a step's batch (record)"),
        ("noise_multiplier", "the noise's standard deviation over the clip norm; or --epsilon"),
        ("epsilon", "what a device that takes part in all rounds may spend; finds the noise multiplier"),
        ("delta", f"of that epsilon (default: {DELTA:g})"),
        ("score_noise_multiplier", "the noise of Fisher scores over the clip norm's square (record)"),
        ("count_noise_multiplier", "twice the noise of how many are within the clip norm; for --clip-quantile"),
    ):
        group.add_argument(f"--{name.replace('_', '-')}", type=float, help=text)


def take_privacy(options: Mapping[str, Any]) -> Privacy | None:
    """What these options say, by their names as attributes; raises `InvalidValueError`.

    With `epsilon` the noise is found, for the run's `rounds`, `local_steps`, `resync_every` and `selection`.
    """
    mode = options["privacy"]
    if mode is None:
        raise InvalidValueError(f"privacy is missing: say {', '.join(_OPTIONS)}")
    given = {name: options[name] for name in _VALUES if options[name] is not None}
    allowed = {*_OPTIONS[mode], *(_TARGET if mode != "none" else ())}
    for name in given.keys() - allowed:
        raise InvalidValueError(f"{name} must not be given with --privacy {mode}, got {given[name]}")
    if mode == "none":
        return None
    missing = [name for name, needed in _OPTIONS[mode].items() if needed and name not in given]
    if missing:
        raise InvalidValueError(f"{missing[0]} is missing, --privacy {mode} needs it")
    if ("noise_multiplier" in given) == ("epsilon" in given):
        raise InvalidValueError(f"--privacy {mode} needs either noise_multiplier or epsilon, got {_both(given)}")
    kind = RecordPrivacy if mode == "record" else DevicePrivacy
    values = {"noise_multiplier": 1.0} | {name: value for name, value in given.items() if name not in _TARGET}
    asked = kind(**values)
    if "epsilon" not in given:
        return asked
    run = (options[name] for name in ("selection", "rounds", "local_steps", "resync_every"))
    return within_target(asked, given["epsilon"], given.get("delta", DELTA), private_schedule(asked, *run))


def _both(given: Mapping[str, Any]) -> str:
    return "both" if "epsilon" in given else "neither"

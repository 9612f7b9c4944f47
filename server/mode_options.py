"""Command-line options of when a round closes and which updates count in it, the same for every command that starts a
run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.aggregation.buffered import EXPONENT, MOST_STALE, BufferRule
from wire_protocol.errors import require

MODES = SYNCHRONOUS, BUFFERED = "sync", "buffered"
MODE_OPTIONS = ("mode", "buffer_goal", "most_stale", "staleness_exponent")


def add_mode_options(group: Any) -> None:
    """Add `--mode --buffer-goal --most-stale --staleness-exponent` to a parser or a group of one.

    The last three are of buffered runs only and have no default here.
    """
    mode = "sync: a round takes its own updates only; buffered: late ones too, and waits for no one (default: sync)"
    group.add_argument("--mode", help=mode, choices=MODES, default=SYNCHRONOUS)
    group.add_argument("--buffer-goal", help="updates that close a round, needed with --mode buffered", type=int)
    behind = f"model versions that a late update may be behind (buffered: {MOST_STALE})"
    group.add_argument("--most-stale", help=behind, type=int)
    discount = f"a late update counts 1 / (1 + versions behind) to the power of this (buffered: {EXPONENT:g})"
    group.add_argument("--staleness-exponent", help=discount, type=float)


def take_buffer(options: Mapping[str, Any]) -> BufferRule | None:
    """What these options say, by their names as attributes; None for synchronous rounds. Raises `InvalidValueError`."""
    mode, goal, most_stale, exponent = (options[name] for name in MODE_OPTIONS)
    if mode == SYNCHRONOUS:
        for name in MODE_OPTIONS[1:]:
            require(options[name] is None, name, options[name], f"left out, as mode is {mode}")
        return None
    require(goal is not None, "buffer_goal", goal, f"an integer of at least 1, as mode is {mode}")
    return BufferRule(
        goal, MOST_STALE if most_stale is None else most_stale, EXPONENT if exponent is None else exponent
    )

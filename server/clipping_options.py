"""Command-line options of a clip norm that moves, the same for every command that starts a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.adaptive_clipping import CLIP_RATE, ClipQuantile
from wire_protocol.errors import require

CLIPPING_OPTIONS = ("clip_quantile", "clip_rate")
"""By their names as attributes."""


def add_clipping_options(group: Any) -> None:
    """Add `--clip-quantile --clip-rate` to a parser or a group of one; without them the norm stands still."""
    share = "share of gradients or updates that the clip norm moves to hold, above 0 and below 1, from --clip-norm on"
    group.add_argument("--clip-quantile", type=float, help=share)
    group.add_argument("--clip-rate", type=float, help=f"how fast it moves (with --clip-quantile: {CLIP_RATE:g})")


def take_clipping(options: Mapping[str, Any]) -> ClipQuantile | None:
    """How the clip norm moves, None where it does not; raises `InvalidValueError`."""
    quantile, rate = (options[name] for name in CLIPPING_OPTIONS)
    if quantile is None:
        require(rate is None, "clip_rate", rate, "left out, as clip_quantile is")
        return None
    return ClipQuantile(quantile, CLIP_RATE if rate is None else rate)

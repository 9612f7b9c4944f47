"""Where what is dear to make is kept between commands (XDG Base Directory Specification)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The user's own folder for what can be made again: `$XDG_CACHE_HOME/fisherfleet` or `~/.cache/fisherfleet`."""
    chosen = environment.get("XDG_CACHE_HOME", "")
    base = Path(chosen) if Path(chosen).is_absolute() else Path.home() / ".cache"
    return base / "fisherfleet"

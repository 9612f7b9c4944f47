"""Where a privacy ledger is, without what it takes to read one. See `ledger`."""

from __future__ import annotations

from pathlib import Path

LEDGER_FILE, WITNESS_FILE = "ledger", "ledger.witness"


def is_begun(state: Path) -> bool:
    """Whether anything was ever charged there."""
    return any((state / name).exists() for name in (LEDGER_FILE, WITNESS_FILE))

"""Where the privacy ledger is in a device's state folder: what can be asked without loading it."""

from __future__ import annotations

from pathlib import Path

LEDGER_FILE, WITNESS_FILE = "ledger", "ledger.witness"


def is_charged(state: Path) -> bool:
    """Whether anything was ever charged there."""
    return (state / LEDGER_FILE).exists()

"""What the commands print: tables for people, JSON for programs, and times in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH_IN_FILES = 120
"""Columns of a table that is not printed on a terminal."""


def print_json(value: Any) -> None:
    """Print a value for programs."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows for people; None is a dash, numbers stand to the right."""
    table, shown = Table(box=None, pad_edge=False, header_style="dim"), [tuple(row) for row in rows]
    for place, column in enumerate(columns):
        numbers = any(isinstance(row[place], (int, float)) for row in shown)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in shown:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else WIDTH_IN_FILES, highlight=False, markup=False).print(table)


def moment(seconds: float | None) -> str | None:
    """A moment in seconds since 1970 as a date and time in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")

"""What every benchmark prints: a table on the terminal, and the same figures as JSON for `--json FILE`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH_IN_FILES = 120


def benchmark_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE as JSON")
    return parser


def print_table(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print `rows`, all with the same columns, at least one."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*row.values())
    Console(width=None if sys.stdout.isatty() else WIDTH_IN_FILES).print(table)


def publish(title: str, rows: Sequence[Mapping[str, str]], figures: Mapping[str, Any], json_file: Path | None) -> None:
    """Print `rows` as a table; write `figures` to `json_file` if there is one."""
    print_table(title, rows)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")

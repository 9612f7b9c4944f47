"""The comparisons of `parity` as a table on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from model_export.parity import COLUMNS, TOLERANCE, Comparison


def print_parity(comparisons: Iterable[Comparison], console: Console) -> None:
    """Worst relative error against torch of each runtime and sub-model, and below it what torch could not answer."""
    table = Table("runtime", "sub-model", *COLUMNS, title=f"relative error against torch, at most {TOLERANCE:g}")
    notes = []
    for row in comparisons:
        cells = [_cell(row.errors.get(column)) for column in COLUMNS]
        table.add_row(row.runtime, row.sub_model, *cells)
        if row.unanswered:
            notes.append(f"{row.runtime}, {row.sub_model}: not compared, {row.unanswered}")
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)


def _cell(error: float | None) -> str:
    if error is None:
        return "-"
    return f"[green]{error:.0e}[/green]" if error <= TOLERANCE else f"[bold red]{error:.0e}[/bold red]"

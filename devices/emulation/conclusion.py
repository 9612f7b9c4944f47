"""How a run ends: what was made of it, and what is said of it in a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from devices.emulation.quantities import format_saving, format_seconds, format_share
from devices.emulation.report import Report


@dataclass(frozen=True)
class Finished:
    """The report, the files written, and whether the run was stopped before its last round."""

    report: Report
    paths: list[Path]
    interrupted: bool


def conclude(finished: Finished, console: Console) -> None:
    """Say how it went and which files there are."""
    totals, final = finished.report.totals, finished.report.final
    how = "stopped" if finished.interrupted else "finished"
    console.print(
        f"{how} after {len(finished.report.rounds)} rounds in {format_seconds(totals.seconds)}: "
        f"accuracy {format_share(final.accuracy)}, "
        f"up {format_saving(totals.bytes_up_dense, totals.bytes_up)} than dense float32, "
        f"down {format_saving(totals.bytes_down_dense, totals.bytes_down)}, "
        f"{format_share(totals.compute_fraction)} of full training compute"
    )
    for path in finished.paths:
        console.print(f"  {path}", soft_wrap=True)

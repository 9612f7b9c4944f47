"""A run while it happens: a progress bar and a table of the last rounds in a terminal, plain lines elsewhere.

The view only shows what it is told. Texts are shown as they are: nothing in them is read as markup.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from devices.emulation.quantities import format_bytes, format_ratio, format_saving, format_share
from server.records import RoundRecord
from wire_protocol.errors import require

_MOST_ROWS = 12
_FEWEST_ROWS = 3
_OTHER_LINES = 4  # the bar, the table's head, the status, and one below for the cursor
_REDRAWS_PER_SECOND = 8


@dataclass(frozen=True)
class RoundRow:
    """One closed round: how many of `devices` were heard, what was sent, and what whole models would have cost.

    `accuracy` is in [0, 1], or None where not measured; `compute_fraction` is multiply-accumulates trained over those
    of full models. Bytes are of the whole fleet. `remark` is shown at the end.
    """

    round: int
    devices_heard: int
    devices: int
    accuracy: float | None
    bytes_up: int
    bytes_down: int
    bytes_up_dense: int
    bytes_down_dense: int
    compute_fraction: float
    resync: bool
    remark: str = ""


def row_of(record: RoundRecord, devices: int, remark: str = "") -> RoundRow:
    """The row of a server's record, of `devices` that were asked; late updates are of others, asked before."""
    return RoundRow(
        round=record.round,
        devices_heard=record.updates_accepted - record.updates_late,
        devices=devices,
        accuracy=record.accuracy,
        bytes_up=record.bytes_up,
        bytes_down=record.bytes_down,
        bytes_up_dense=record.bytes_up_dense,
        bytes_down_dense=record.bytes_down_dense,
        compute_fraction=record.trained_macs / record.full_macs if record.full_macs else 0.0,
        resync=record.resync,
        remark=remark,
    )


class LiveView:
    """Shows a run of `rounds` rounds (at least 1) on `console` from entry to exit; the last state stays on the screen.

    On a console that is no terminal it prints one line a closed round and one a new status.
    """

    def __init__(self, console: Console, rounds: int) -> None:
        require(rounds >= 1, "rounds", rounds, "at least 1")
        self._console = console
        self._rounds = rounds
        self._rows: deque[RoundRow] = deque(maxlen=_MOST_ROWS)
        self._closed = 0
        self._status = ""
        self._spinner = Spinner("dots")
        self._progress = Progress(
            TextColumn("rounds"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("rounds", total=rounds)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=_REDRAWS_PER_SECOND)

    def __enter__(self) -> LiveView:
        if self._console.is_terminal:
            self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._status = ""
        self._progress.stop_task(self._task)
        self._live.stop()

    def status(self, text: str) -> None:
        """Say what is going on now, in a few words."""
        if text == self._status:
            return
        self._status = text
        if not self._console.is_terminal:
            self._print(text)

    def round_closed(self, row: RoundRow) -> None:
        """Show one more round."""
        self._rows.append(row)
        self._closed += 1
        self._progress.advance(self._task)
        if not self._console.is_terminal:
            self._print(self._line(row))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _line(self, row: RoundRow) -> str:
        up, down = format_bytes(row.bytes_up), format_bytes(row.bytes_down)
        return (
            f"{self._which(row)}: {row.devices_heard}/{row.devices} devices, "
            f"accuracy {format_share(row.accuracy)}, "
            f"up {up} ({format_saving(row.bytes_up_dense, row.bytes_up)}), "
            f"down {down} ({format_saving(row.bytes_down_dense, row.bytes_down)}), "
            f"compute {format_share(row.compute_fraction)}{', resync' if row.resync else ''}"
            f"{', ' if row.remark else ''}{row.remark}"
        )

    def _which(self, row: RoundRow) -> str:
        """Numbers of rounds that drew nobody, or came to nothing, are missing."""
        if row.round == self._closed:
            return f"round {row.round}/{self._rounds}"
        return f"round {row.round}, {self._closed}/{self._rounds} closed"

    def _render(self) -> Group:
        parts: list[Progress | Spinner | Table] = [self._progress]
        if self._rows:
            parts.append(self._table())
        if self._status:
            self._spinner.update(text=Text(self._status, style="dim", overflow="ellipsis", no_wrap=True))
            parts.append(self._spinner)
        return Group(*parts)

    def _table(self) -> Table:
        table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
        for name in ("round", "devices", "accuracy", "up", "smaller", "down", "smaller", "compute", ""):
            table.add_column(name, justify="right", no_wrap=True)
        room = max(_FEWEST_ROWS, self._console.height - _OTHER_LINES)
        for row in list(self._rows)[-room:]:
            table.add_row(*self._cells(row))
        return table

    def _cells(self, row: RoundRow) -> list[Text]:
        return [
            Text(str(row.round)),
            Text(f"{row.devices_heard}/{row.devices}", style="" if row.devices_heard == row.devices else "yellow"),
            Text(format_share(row.accuracy), style="bold"),
            Text(format_bytes(row.bytes_up)),
            Text(format_ratio(row.bytes_up_dense, row.bytes_up), style="cyan"),
            Text(format_bytes(row.bytes_down)),
            Text(format_ratio(row.bytes_down_dense, row.bytes_down), style="cyan"),
            Text(format_share(row.compute_fraction)),
            Text(" ".join(word for word in ("resync" if row.resync else "", row.remark) if word), style="dim"),
        ]

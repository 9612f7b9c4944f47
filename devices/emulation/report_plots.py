"""The report's plots as inline SVG: accuracy, bytes, and the sub-models' sizes.

Colours are CSS variables of the page (`--ink --muted --grid --accent --paper`), so a plot follows its light or dark
theme; text stays text. The same report gives the same bytes. No state of pyplot is touched.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from math import nan
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from devices.emulation.quantities import format_bytes, format_saving, format_share
from devices.emulation.report import DeviceEntry, Report, RoundEntry

# Stand-ins that matplotlib accepts as colours; `_themed` turns each into its CSS variable.
_INK, _MUTED, _GRID, _ACCENT, _PAPER = (f"#{number:02x}f00d" for number in range(1, 6))
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid", _ACCENT: "--accent", _PAPER: "--paper"}

# Inches; one is 72 units of the drawing.
_WIDE, _NARROW = 5.6, 3.9
_HEIGHT, _GROUP_HEIGHT = 3.5, 1.75
_MOST_DOTS = 60
_MOST_COUNTS = 12
_MOST_NAMES = 32
_LONGEST_NAME = 12
_MOST_LETTERS = 44
_LOG_FROM_RATIO = 8

_STYLE: Any = {  # its keys are literals that a plain dictionary's type can't name
    "svg.fonttype": "none",
    "svg.hashsalt": "fisherfleet",
    "text.parse_math": False,
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}


def accuracy_plot(rounds: Sequence[RoundEntry]) -> str | None:
    """Accuracy by round, resyncs as rings; None where no round has an accuracy."""
    measured = [entry for entry in rounds if entry.accuracy is not None]
    if not measured:
        return None
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDE, _HEIGHT), layout="constrained")
        axes = figure.add_subplot(xlabel="round")
        values = [nan if entry.accuracy is None else entry.accuracy for entry in rounds]
        axes.plot(_numbers(rounds), values, color=_ACCENT, marker=_dot(rounds), markersize=4)
        _ring_resyncs(axes, measured, 8 if len(rounds) <= _MOST_DOTS else 5)
        _label_last(axes, measured[-1])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
        _fit_rounds(axes, rounds)
        axes.margins(y=0.12)
        return _svg(figure, "accuracy", _describe_accuracy(measured))


def bytes_plot(rounds: Sequence[RoundEntry]) -> str | None:
    """Bytes sent by round, up and down, against dense; None where there is no round."""
    if not rounds:
        return None
    directions = {
        "up": ([entry.bytes_up for entry in rounds], [entry.bytes_up_dense for entry in rounds]),
        "down": ([entry.bytes_down for entry in rounds], [entry.bytes_down_dense for entry in rounds]),
    }
    every = [count for sent, dense in directions.values() for count in (*sent, *dense) if count] or [1]
    logarithmic = max(every) / min(every) > _LOG_FROM_RATIO
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDE, _HEIGHT), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        for axes, (direction, (sent, dense)) in zip(panels, directions.items(), strict=True):
            axes.set_title(f"{direction}: {format_saving(sum(dense), sum(sent))}")
            _draw_bytes(axes, rounds, (sent, dense), logarithmic)
        if not logarithmic:
            panels[0].set_ylim(0, 1.15 * max(every))
        panels[-1].set_xlabel("round")
        sums = {name: (format_bytes(sum(sent)), format_bytes(sum(dense))) for name, (sent, dense) in directions.items()}
        parts = [f"{name} {sent} in all, dense {dense}" for name, (sent, dense) in sums.items()]
        return _svg(figure, "bytes", f"Bytes by round against dense float32: {'; '.join(parts)}.")


def group_plots(report: Report, columns: int) -> dict[str, str]:
    """For each neuron group, the neurons that every device kept as a fraction of the whole group.

    `columns` says how many plots the page sets side by side, so that their text comes out at one size.
    """
    if not report.devices:
        return {}
    return {
        group: _group_plot(report.devices, (group, size), f"group{number}", _WIDE if columns < 3 else _NARROW)
        for number, (group, size) in enumerate(report.config.group_sizes.items())
    }


def _group_plot(devices: Sequence[DeviceEntry], sized_group: tuple[str, int], prefix: str, width: float) -> str:
    group, size = sized_group
    kept = [device.kept.get(group, 0) for device in devices]
    with rc_context(_STYLE):
        figure = Figure(figsize=(width, _GROUP_HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        gap = 0.24 if len(kept) <= _MOST_NAMES else 0
        axes.add_patch(PathPatch(_bars(np.ones(len(kept)), gap), facecolor=_GRID, linewidth=0))
        axes.add_patch(PathPatch(_bars(np.array(kept) / size, gap), facecolor=_ACCENT, linewidth=0))
        if len(kept) <= _MOST_COUNTS:
            for position, count in enumerate(kept):
                _label_count(axes, position, count, size)
        axes.set_xlim(-0.6, max(len(kept), 4) - 0.4)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        axes.grid(visible=False)
        _name_devices(axes, [device.id for device in devices])
        return _svg(figure, prefix, f"Neurons of {group} kept, of {size}: {_describe_kept(devices, kept)}.")


def _draw_bytes(
    axes: Axes, rounds: Sequence[RoundEntry], series: tuple[Sequence[int], Sequence[int]], logarithmic: bool
) -> None:
    sent, dense = ([count or nan for count in counts] if logarithmic else list(counts) for counts in series)
    lone = "o" if len(rounds) == 1 else "none"
    axes.plot(_numbers(rounds), dense, color=_MUTED, linewidth=1.5, linestyle=(0, (4, 3)), marker=lone, markersize=4)
    axes.plot(_numbers(rounds), sent, color=_ACCENT, marker=_dot(rounds), markersize=3.5)
    if logarithmic:
        axes.set_yscale("log")
        axes.margins(y=0.15)
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1,), numticks=6))
        low, high = axes.get_ylim()
        if high / low < 100:
            axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: _tick_bytes(count)))
    _fit_rounds(axes, rounds)


def _tick_bytes(count: float) -> str:
    number, unit = format_bytes(count).split(" ")
    return f"{float(number):g} {unit}"


def _fit_rounds(axes: Axes, rounds: Sequence[RoundEntry]) -> None:
    first, last = rounds[0].round, rounds[-1].round
    margin = max(0.5, 0.02 * (last - first))
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def _ring_resyncs(axes: Axes, measured: Sequence[RoundEntry], size: float) -> None:
    resyncs = [entry for entry in measured if entry.resync]
    axes.plot(
        _numbers(resyncs),
        [entry.accuracy or 0 for entry in resyncs],
        linestyle="none",
        marker="o",
        markersize=size,
        markerfacecolor=_PAPER,
        markeredgecolor=_ACCENT,
        markeredgewidth=1.5,
    )


def _label_last(axes: Axes, last: RoundEntry) -> None:
    axes.annotate(
        format_share(last.accuracy),
        (last.round, last.accuracy or 0),
        xytext=(0, 9),
        textcoords="offset points",
        ha="right",
        fontweight="bold",
    )


def _label_count(axes: Axes, position: int, count: int, size: int) -> None:
    """Write the count inside the bar's top where that has room, else above it."""
    inside = count / size > 0.3
    axes.annotate(
        str(count),
        (position, count / size),
        xytext=(0, -3 if inside else 2),
        textcoords="offset points",
        va="top" if inside else "bottom",
        ha="center",
        color=_PAPER if inside else _INK,
        fontsize=9,
    )


def _name_devices(axes: Axes, names: Sequence[str]) -> None:
    """Name each bar; what all names start with stands once, below."""
    axes.tick_params(axis="x", length=0)
    if len(names) > _MOST_NAMES:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(names)} devices, in the order of the table")
        return
    shared = _shared_start(names) if len(names) > 1 else ""
    labels = [_shorten(name[len(shared) :], _LONGEST_NAME) for name in names]
    crowded = len(labels) * max(map(len, labels)) > _MOST_LETTERS
    axes.set_xticks(range(len(labels)), labels, rotation=90 if crowded else 0, fontsize=9)
    axes.set_xlabel(f"{_shorten(shared, 40)}\N{HORIZONTAL ELLIPSIS}" if shared else "")


def _shared_start(names: Sequence[str]) -> str:
    """The longest start of all names that ends between words."""
    first, last = min(names), max(names)
    length = next(
        (index for index, pair in enumerate(zip(first, last, strict=False)) if len(set(pair)) > 1), len(first)
    )
    return re.sub(r"[A-Za-z0-9]+$", "", first[:length])


def _shorten(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"


def _bars(heights: NDArray[np.float64], gap: float) -> Outline:
    """Bars at 0, 1, ... as one outline, so that a large fleet makes a small file."""
    left = np.arange(len(heights)) - 0.5 + gap / 2
    right = left + 1 - gap
    zeros = np.zeros_like(left)
    corners = np.stack([left, zeros, left, heights, right, heights, right, zeros, left, zeros], axis=1)
    codes = [Outline.MOVETO, Outline.LINETO, Outline.LINETO, Outline.LINETO, Outline.CLOSEPOLY]
    return Outline(corners.reshape(-1, 2), codes * len(heights))


def _numbers(rounds: Sequence[RoundEntry]) -> list[int]:
    return [entry.round for entry in rounds]


def _dot(rounds: Sequence[RoundEntry]) -> str:
    return "o" if len(rounds) <= _MOST_DOTS else "none"


def _describe_accuracy(measured: Sequence[RoundEntry]) -> str:
    best = max(measured, key=lambda entry: entry.accuracy or 0)
    first, last = measured[0], measured[-1]
    return (
        f"Accuracy by round: {format_share(first.accuracy)} after round {first.round}, "
        f"{format_share(last.accuracy)} after round {last.round}, "
        f"best {format_share(best.accuracy)} after round {best.round}."
    )


def _describe_kept(devices: Sequence[DeviceEntry], kept: Sequence[int]) -> str:
    if len(devices) <= _MOST_COUNTS:
        return ", ".join(f"{device.id} {count}" for device, count in zip(devices, kept, strict=True))
    return f"{min(kept)} to {max(kept)} on {len(devices)} devices"


def _svg(figure: Figure, prefix: str, description: str) -> str:
    """The figure as an inline element: no fixed size, identifiers of its own, and a text alternative."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    view_box = re.search(r'viewBox="[^"]*"', drawing)
    body = drawing[drawing.index(">") + 1 :]
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path.group()), body)
    start = f'<svg {view_box.group() if view_box else ""} role="img" aria-label="{escape(description)}">'
    return start + _themed(body).strip()


def _themed(drawing: str) -> str:
    for color, variable in _VARIABLES.items():
        drawing = drawing.replace(color, f"var({variable})")
    return drawing

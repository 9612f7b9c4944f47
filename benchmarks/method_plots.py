"""Plots of the method table: accuracy of every policy, and accuracy by the bytes that devices have sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.method_summary import Block, Row, summaries

SHOWN = "fashion-mnist", "dirichlet-0.3"
_STYLE: Any = {"svg.hashsalt": "fisherfleet", "font.size": 10.0, "axes.spines.top": False, "axes.spines.right": False}
_STRONG, _PLAIN, _DENSE = "#c1440e", "#8a94a6", "#1f4e79"
_MARKED = {"fisher-cohort": _STRONG, "narrow": "#2a7f62", "full": _DENSE}

Plot = tuple[str, Path]
"""What a plot shows, in words, and its file."""


def plot_accuracy(found: Mapping[Block, Sequence[Row]], folder: Path) -> Plot:
    """A panel a fleet: every policy's mean, and a dot for each seed."""
    panels = _panels(found)
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
        for axes, (fleet, rows) in zip(_axes(figure, len(panels)), panels.items(), strict=True):
            _dots(axes, rows)
            axes.set_title(_fleet(fleet), loc="left")
            axes.set_xlabel("held-out accuracy, %")
        file = folder / "accuracy.svg"
        figure.savefig(file, metadata={"Date": None})
    return "Accuracy of every policy on Fashion-MNIST, non-IID; a dot is a seed", file


def plot_bytes(found: Mapping[Block, Sequence[Row]], folder: Path) -> Plot:
    """A panel a fleet: accuracy by megabytes sent up by all devices, the mean over seeds."""
    panels = _panels(found)
    with rc_context(_STYLE):
        figure = Figure(figsize=(4.2 * len(panels), 3.6), layout="constrained")
        for axes, (fleet, rows) in zip(_axes(figure, len(panels)), panels.items(), strict=True):
            for policy in dict.fromkeys(row["policy"] for row in rows):
                runs = [row["curve"] for row in rows if row["policy"] == policy and row["curve"]]
                points = [
                    (mean(p[2] for p in at) / 1e6, 100 * mean(p[1] for p in at)) for at in zip(*runs, strict=False)
                ]
                style: Any = {"color": _MARKED.get(policy, _PLAIN), "linewidth": 2.0 if policy in _MARKED else 1.0}
                axes.plot(*zip(*points, strict=True), label=policy, **style)
                if policy in _MARKED:
                    axes.annotate(policy, points[-1], xytext=(4, -3), textcoords="offset points", fontsize=8)
            axes.set_xscale("log")
            axes.set_title(_fleet(fleet), loc="left")
            axes.set_xlabel("megabytes sent by the fleet")
            axes.set_ylabel("held-out accuracy, %")
        file = folder / "bytes.svg"
        figure.savefig(file, metadata={"Date": None})
    return "Accuracy by the bytes that the fleet has sent, Fashion-MNIST, non-IID; grey are all other policies", file


def _point(at: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Megabytes up and accuracy in percent, from the same round of all seeds."""
    return mean(one[2] for one in at) / 1e6, 100 * mean(one[1] for one in at)


def _panels(found: Mapping[Block, Sequence[Row]]) -> dict[str, Sequence[Row]]:
    return {fleet: rows for (dataset, split, fleet), rows in found.items() if (dataset, split) == SHOWN}


def _axes(figure: Figure, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def _fleet(fleet: str) -> str:
    return "devices with all, a half, a quarter" if fleet == "mixed" else f"every device keeps {float(fleet):.0%}"


def _dots(axes: Axes, rows: Sequence[Row]) -> None:
    """A mark for the mean and a dot for every seed; no bars, as the axis does not begin at 0."""
    ordered = summaries(rows)[::-1]
    for place, one in enumerate(ordered):
        colour = _MARKED.get(one.policy, _PLAIN)
        axes.plot(one.accuracies, [place] * len(one.accuracies), "o", color=colour, markersize=4, alpha=0.6)
        axes.plot([one.accuracy], [place], "|", color=colour, markersize=16, markeredgewidth=3)
    axes.set_yticks(range(len(ordered)), [one.policy for one in ordered])
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.grid(axis="x", alpha=0.3)

"""A privacy plan as a plot: epsilon by round, by both accounts, below the promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.errors import StorageError
from server.privacy.plan import PrivacyPlan

_LEDGER, _TIGHT, _PROMISE = "#c1440e", "#1f4e79", "#8a94a6"
_STYLE: Any = {
    "svg.hashsalt": "fisherfleet",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.0,
}


def draw_plan(plan: PrivacyPlan, path: Path) -> None:
    """Write the plot to `path`, whose suffix says how; the same plan gives the same bytes. Raises `StorageError`."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.8), dpi=150, layout="constrained")
        axes = figure.add_subplot(xlabel="rounds that a device took part in", ylabel="epsilon")
        axes.set_title(f"noise multiplier {plan.noise_multiplier:g}, delta {plan.target.delta:g}")
        axes.axhline(plan.target.epsilon, color=_PROMISE, linestyle=(0, (4, 3)), linewidth=1.2)
        axes.annotate(
            f"promised: {plan.target.epsilon:g}",
            (0.01, plan.target.epsilon),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            color="#5b6475",
        )
        _line(axes, plan, "ledger", _LEDGER)
        _line(axes, plan, "tight", _TIGHT)
        axes.set_ylim(0, 1.15 * plan.target.epsilon)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        axes.legend(frameon=False, loc="lower right")
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        except OSError as error:
            raise StorageError(f"the plot {path} cannot be written: {error}") from error


def _line(axes: Axes, plan: PrivacyPlan, account: str, color: str) -> None:
    labels = {"ledger": "by the device's ledger (Renyi)", "tight": "tight (privacy loss distributions)"}
    rounds = [entry.round for entry in plan.rounds]
    values = [getattr(entry, account) for entry in plan.rounds]
    axes.plot(rounds, values, color=color, marker="o", markersize=3.5, linewidth=2, label=labels[account])

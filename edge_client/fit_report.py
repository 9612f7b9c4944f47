"""A plan and what it was chosen from, as `fisherfleet-edge fit` prints it: a table for people, or JSON. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from edge_client.cost_model import Widths
from edge_client.fitting import BLOCK, Fitted
from edge_client.round_cost import RESOURCES, Room, RoundCost
from wire_protocol.messages import RoundPlan

FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)
_OF_PLAN = ("local_steps", "batch_size", "keep", "selection", "precision", "top_k")


@dataclass(frozen=True)
class Report:
    """What the command found; `scored` is false where no model or scoring graph is here to score neurons with."""

    bundle: str
    plan: RoundPlan
    cost: RoundCost
    room: Room
    fitted: Fitted
    pause: str | None
    link_measured: bool
    scored: bool
    layout_sizes: Mapping[str, int]


def as_json(report: Report) -> dict[str, Any]:
    """All figures; what is not limited is null."""
    return {
        "bundle": report.bundle,
        "round": {name: getattr(report.plan, name) for name in _OF_PLAN},
        "limits": {name: _finite(most) for name, most in zip(RESOURCES, report.room.row, strict=True)},
        "pause": report.pause,
        "bytes_per_second": report.cost.bytes_per_second,
        "link_measured": report.link_measured,
        "scored": report.scored,
        "takes_part": report.pause is None and report.fitted.affordable,
        "binds": binds(report.fitted),
        "fisher_mass": report.fitted.mass,
        "planned": _row(report, "planned", report.fitted.widths),
        "widths": [_row(report, name, widths) for name, widths in _some_widths(report)],
    }


def as_table(report: Report) -> str:
    """The same for people."""
    plan, row = report.plan, report.room.row
    speed = "measured" if report.link_measured else "assumed until a receipt is seen"
    limits = [f"{name} {most:,.6g}" for name, most in zip(RESOURCES, row, strict=True) if isfinite(most)]
    rows = [_row(report, name, widths) for name, widths in _some_widths(report)]
    lines = [
        f"bundle {report.bundle[:12]}: {plan.local_steps} steps of {plan.batch_size} examples, keep {plan.keep:g}",
        f"limits of this round: {', '.join(limits) or 'none'}",
        f"uplink: {report.cost.bytes_per_second:,.0f} bytes a second ({speed})",
        "",
        *_columns([*rows, _row(report, "planned", report.fitted.widths)]),
        "",
        "widths planned: " + (", ".join(_named(report)) or "all, as none can be cut"),
        _verdict(report),
    ]
    return "\n".join(lines) + "\n"


def binds(fitted: Fitted) -> str:
    """The limit that ends the growth."""
    return "keep" if fitted.binds is None else RESOURCES[fitted.binds]


def _verdict(report: Report) -> str:
    if report.pause is not None:
        return f"sits rounds out now: {report.pause}"
    if not report.fitted.affordable:
        return f"sits this round out: even the smallest sub-model is beyond {binds(report.fitted)}"
    what = "of the Fisher mass" if report.scored else "of the neurons (there is no model here yet to score them with)"
    return f"binding limit: {binds(report.fitted)}; keeps {100 * report.fitted.mass:.0f} % {what}"


def _row(report: Report, name: str, widths: Widths) -> dict[str, Any]:
    used = report.cost.uses(widths[None])[0]
    over = [resource for resource, use, most in zip(RESOURCES, used, report.room.row, strict=True) if use > most]
    return {
        "model": name,
        "widths": report.cost.model.sizes.named(widths),
        "seconds": float(used[0]),
        "sending_seconds": float(used[1] - used[0]),
        "bytes": round(float(used[2])),
        "memory_mb": float(used[3]),
        "exceeds": over,
    }


def _some_widths(report: Report) -> list[tuple[str, Widths]]:
    sizes = np.array(list(report.layout_sizes.values()), dtype=np.int64)
    smallest = np.minimum(BLOCK, sizes)
    parts = [(f"{part:g}", np.maximum(smallest, np.rint(part * sizes).astype(np.int64))) for part in FRACTIONS]
    return [("smallest", smallest), *parts]


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"{'neurons':<10}{'seconds':>10}{'sending s':>11}{'bytes':>13}{'MB':>8}  exceeds"]
    for row in rows:
        figures = f"{row['seconds']:>10.3f}{row['sending_seconds']:>11.3f}{row['bytes']:>13,}{row['memory_mb']:>8.0f}"
        lines.append(f"{row['model']:<10}{figures}  {', '.join(row['exceeds']) or '-'}")
    return lines


def _named(report: Report) -> list[str]:
    named = report.cost.model.sizes.named(report.fitted.widths)
    return [f"{group} {width}/{report.layout_sizes[group]}" for group, width in named.items()]


def _finite(value: float) -> float | None:
    return float(value) if isfinite(value) else None

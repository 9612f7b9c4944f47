"""What the rows of `benchmarks.method_table` come to over seeds: accuracy with spread, costs against dense FedAvg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isnan
from statistics import mean, stdev
from typing import Any

Row = dict[str, Any]
Block = tuple[str, str, str]
"""Data set, split, fleet."""


@dataclass(frozen=True)
class Summary:
    """One policy in one block: accuracies in percent by seed, and means of the costs over those of dense FedAvg."""

    policy: str
    accuracies: tuple[float, ...]
    fewer_up: float
    fewer_down: float
    compute: float

    @property
    def accuracy(self) -> float:
        """The mean over seeds."""
        return mean(self.accuracies)

    @property
    def spread(self) -> float:
        """The standard deviation over seeds, 0 for one."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0


def blocks(rows: Sequence[Row]) -> dict[Block, list[Row]]:
    """Rows by data set, split and fleet, in the order in which these first come."""
    found: dict[Block, list[Row]] = {}
    for row in rows:
        found.setdefault((row["dataset"], row["split"], row["fleet"]), []).append(row)
    return found


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """Of one block, the best policy first; costs are over those of `full` of the same seed where it is there."""
    dense = {row["seed"]: row for row in rows if row["policy"] == "full"}
    by_policy = groupby(sorted(rows, key=lambda row: row["policy"]), key=lambda row: row["policy"])
    found = [_summary(policy, list(runs), dense) for policy, runs in by_policy]
    return sorted(found, key=lambda one: -one.accuracy)


def _summary(policy: str, runs: Sequence[Row], dense: dict[int, Row]) -> Summary:
    return Summary(
        policy,
        tuple(100 * run["accuracy"] for run in runs),
        _times_fewer("bytes_up", runs, dense),
        _times_fewer("bytes_down", runs, dense),
        mean(run["compute_fraction"] for run in runs),
    )


def _times_fewer(field: str, runs: Sequence[Row], dense: dict[int, Row]) -> float:
    ratios = [dense[run["seed"]][field] / run[field] for run in runs if run["seed"] in dense and run[field]]
    return mean(ratios) if ratios else float("nan")


def bytes_to(row: Row, target: float) -> tuple[int, int] | None:
    """Bytes up and down of a run until its accuracy, in [0, 1], was first `target`; None where it never was."""
    for _, accuracy, up, down in row["curve"]:
        if accuracy >= target:
            return int(up), int(down)
    return None


def summary_rows(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Rows for a table."""
    return [
        {
            "data": dataset,
            "split": split,
            "fleet": fleet,
            "policy": one.policy,
            "accuracy %": f"{one.accuracy:.1f} ± {one.spread:.1f}",
            "fewer bytes up": times(one.fewer_up),
            "down": times(one.fewer_down),
            "compute %": f"{100 * one.compute:.0f}",
        }
        for (dataset, split, fleet), block in blocks(rows).items()
        for one in summaries(block)
    ]


def times(ratio: float) -> str:
    """How many times fewer, `-` where it is not known."""
    return "-" if isnan(ratio) else f"{ratio:.0f} x" if ratio >= 10 else f"{ratio:.1f} x"

"""Command-line options of what becomes of outliers, and of devices whose faults are too many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from server.config import Outliers, RunConfig
from server.quarantine import QuarantineRule


def add_screening_options(group: Any) -> None:
    """Add `--outliers --quarantine-faults --quarantine-rounds` to a parser or a group of one."""
    rule = QuarantineRule()
    kinds, usual = get_args(Outliers), RunConfig.outliers
    outliers = f"updates far from the others': left out of the model, or kept (default: {usual})"
    group.add_argument("--outliers", help=outliers, choices=kinds, default=usual)
    faults = f"rounds with a fault that end in quarantine, 0 for never (default: {rule.faults})"
    group.add_argument("--quarantine-faults", help=faults, type=int, default=rule.faults)
    rounds = f"the last rounds in which they count (default: {rule.rounds})"
    group.add_argument("--quarantine-rounds", help=rounds, type=int, default=rule.rounds)


def take_screening(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `RunConfig` that these options give, by their names as attributes; raises `InvalidValueError`."""
    faults, rounds = options["quarantine_faults"], options["quarantine_rounds"]
    rule = None if faults == 0 else QuarantineRule(faults, rounds)
    return {"outliers": options["outliers"], "quarantine": rule}

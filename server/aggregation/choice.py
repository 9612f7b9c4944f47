"""The rule of aggregation of a run, chosen by name."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from server.aggregation.masked_mean import WeightedMean
from server.aggregation.median import Median
from server.aggregation.norm_bound import NormBounded
from server.aggregation.rule import AggregationRule
from server.aggregation.trimmed_mean import TrimmedMean
from wire_protocol.errors import require
from wire_protocol.layout import Layout

RuleName = Literal["mean", "trimmed-mean", "median"]

DEFAULT_TRIM = 0.1


@dataclass(frozen=True)
class AggregationConfig:
    """`aggregation` names the rule. `trim`, for the trimmed mean alone (None: 0.1), is the fraction left out at either
    end, at least 0 and below 0.5. `norm_bound`, above 0, bounds each difference's L2 norm first; None for no bound.
    """

    aggregation: RuleName = "mean"
    trim: float | None = None
    norm_bound: float | None = None

    def __post_init__(self) -> None:
        names = get_args(RuleName)
        require(self.aggregation in names, "aggregation", self.aggregation, f"one of {', '.join(names)}")
        if self.trim is not None:
            trims = self.aggregation == "trimmed-mean"
            require(trims, "trim", self.trim, f"left out, as aggregation is {self.aggregation} and not trimmed-mean")
            require(0 <= self.trim < 0.5, "trim", self.trim, "at least 0 and below 0.5")
        if self.norm_bound is not None:
            legal = self.norm_bound > 0 and isfinite(self.norm_bound)
            require(legal, "norm_bound", self.norm_bound, "above 0 and finite")


def aggregation_rule(config: AggregationConfig, layout: Layout) -> AggregationRule:
    """The rule that `config` asks for."""
    rule = _rule(config, layout)
    return rule if config.norm_bound is None else NormBounded(rule, config.norm_bound)


def _rule(config: AggregationConfig, layout: Layout) -> AggregationRule:
    match config.aggregation:
        case "mean":
            return WeightedMean(layout)
        case "trimmed-mean":
            return TrimmedMean(layout, DEFAULT_TRIM if config.trim is None else config.trim)
        case "median":
            return Median(layout)

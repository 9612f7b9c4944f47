"""The learning rate of each round, from the run's full rate. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Literal, get_args

from wire_protocol.errors import require

RateDecay = Literal["none", "cosine"]


@dataclass(frozen=True)
class RateSchedule:
    """The rate of each of a run's `rounds`, at most `full`.

    Over the first `warmup` rounds the rate rises in equal steps: networks that begin at their full rate lose units
    for good, the more so the narrower they are (Goyal et al. 2017, "Accurate, large minibatch SGD", section 2.2).
    `cosine` is half a wave from `full` to nearly 0 over the run (Loshchilov and Hutter 2017, "SGDR: Stochastic
    gradient descent with warm restarts", equation 5 without restarts).
    """

    full: float
    rounds: int
    decay: RateDecay = "none"
    warmup: int = 0

    def __post_init__(self) -> None:
        require(self.full > 0 and isfinite(self.full), "learning_rate", self.full, "above 0 and finite")
        words = get_args(RateDecay)
        require(self.decay in words, "rate_decay", self.decay, f"one of {', '.join(words)}")
        legal = isinstance(self.warmup, int) and self.warmup >= 0
        require(legal, "rate_warmup", self.warmup, "an integer of at least 0")

    def at(self, round_number: int) -> float:
        """The rate of a round, from 1; above 0.

        Rounds that were given up have numbers too: what comes after number `rounds` has its rate.
        """
        rate = self.full * min(1.0, round_number / (self.warmup + 1))
        if self.decay == "none":
            return rate
        past = min(round_number, self.rounds) - 1
        return rate * (1 + cos(pi * past / self.rounds)) / 2

"""The learning rate of each round, from the run's first rate. Pure."""

from __future__ import annotations

from math import cos, pi
from typing import Literal

RateDecay = Literal["none", "cosine"]


def rate_at(first: float, decay: RateDecay, round_number: int, rounds: int) -> float:
    """The rate of a round, from 1, of a run of `rounds`; above 0 and at most `first`.

    `cosine` is half a wave from `first` to nearly 0 over the run (Loshchilov and Hutter 2017, "SGDR: Stochastic
    gradient descent with warm restarts", equation 5 without restarts). Rounds that were given up have numbers too: what
    comes after number `rounds` has its rate.
    """
    if decay == "none":
        return first
    past = min(round_number, rounds) - 1
    return first * (1 + cos(pi * past / rounds)) / 2

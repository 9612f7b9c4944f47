"""How a device takes its local steps: part of every plan, frozen, validated when made and when read."""

from __future__ import annotations

from typing import Literal

import msgspec

from wire_protocol.errors import require

Optimizer = Literal["sgd", "momentum", "adam"]


class LocalTraining(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without arguments: plain stochastic gradient descent.

    `momentum`, from 0 to below 1, is the decay of the gradients' running mean in the optimizers `momentum` and `adam`.
    `proximal` is the mu of FedProx, 0 for none. A batch's gradient is clipped to the L2 norm `clip_gradient`, 0 for no
    clipping. Parameters that read a group of neurons descend as `hidden_gain` times something else, which moves them
    faster than those that read the input, in plain descent by the gain's square; 1 treats all alike.
    """

    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    proximal: float = 0.0
    clip_gradient: float = 0.0
    hidden_gain: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        require(0 <= self.proximal < float("inf"), "proximal", self.proximal, "at least 0 and finite")
        require(0 <= self.clip_gradient < float("inf"), "clip_gradient", self.clip_gradient, "at least 0 and finite")
        require(0 < self.hidden_gain < float("inf"), "hidden_gain", self.hidden_gain, "above 0 and finite")


PLAIN = LocalTraining()
"""Stochastic gradient descent and nothing else."""

"""What turns a batch's gradient into a step: stochastic gradient descent, momentum, Adam.

All parameters are one float32 vector. An optimizer lives for one round's training on one device and begins with an
empty state: its sub-model may be another in the next round.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wire_protocol.local_training import LocalTraining

Vector = NDArray[Any]


class Optimizer(Protocol):
    """Replaces a gradient by what is to be subtracted from the parameters."""

    def step(self, gradient: Vector) -> None:
        """Do so in place."""
        ...


def open_optimizer(training: LocalTraining, learning_rate: float, size: int) -> Optimizer:
    """The optimizer named by `training`, for a vector of `size` parameters."""
    if training.optimizer == "momentum":
        return Momentum(learning_rate, training.momentum, size)
    if training.optimizer == "adam":
        return Adam(learning_rate, training.momentum, size)
    return Sgd(learning_rate)


class Sgd:
    """learning_rate x gradient (Robbins and Monro, 1951)."""

    def __init__(self, learning_rate: float) -> None:
        self._rate = np.float32(learning_rate)

    def step(self, gradient: Vector) -> None:
        """See `Optimizer.step`."""
        np.multiply(gradient, self._rate, out=gradient)


class Momentum:
    """v = decay v + gradient; the step is learning_rate x v (Polyak, 1964; Sutskever et al., 2013)."""

    def __init__(self, learning_rate: float, decay: float, size: int) -> None:
        self._rate = np.float32(learning_rate)
        self._decay = np.float32(decay)
        self._velocity = np.zeros(size, dtype=np.float32)

    def step(self, gradient: Vector) -> None:
        """See `Optimizer.step`."""
        self._velocity *= self._decay
        self._velocity += gradient
        np.multiply(self._velocity, self._rate, out=gradient)


class Adam:
    """Kingma and Ba (2015), algorithm 1, with beta2 = 0.999 and epsilon = 1e-8; `decay` is beta1."""

    _BETA2 = 0.999
    _EPSILON = 1e-8

    def __init__(self, learning_rate: float, decay: float, size: int) -> None:
        self._rate = learning_rate
        self._decay = decay
        self._mean = np.zeros(size, dtype=np.float32)
        self._square = np.zeros(size, dtype=np.float32)
        self._steps = 0

    def step(self, gradient: Vector) -> None:
        """See `Optimizer.step`."""
        self._steps += 1
        self._mean *= np.float32(self._decay)
        self._mean += np.float32(1 - self._decay) * gradient
        np.square(gradient, out=gradient)
        gradient *= np.float32(1 - self._BETA2)
        self._square *= np.float32(self._BETA2)
        self._square += gradient
        np.divide(self._square, np.float32(1 - self._BETA2**self._steps), out=gradient)
        np.sqrt(gradient, out=gradient)
        gradient += np.float32(self._EPSILON)
        np.divide(self._mean, gradient, out=gradient)
        gradient *= np.float32(self._rate / (1 - self._decay**self._steps))

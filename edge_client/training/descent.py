"""Local steps: gradient, clipped, then the proximal term, then the optimizer's step.

With w the parameters as the device received them (w_0) and moved, s their gains (`hidden_gain`) and f the mean loss of
a batch, v = w / s is what descends, and a step is::

    g = s grad f(w),     g = g min(1, clip / |g|)       the norm over all parameters
    g = g + mu (v - v_0)                                the gradient of mu/2 |v - v_0|^2: FedProx, Li et al. 2020
    w = w - s optimizer(g)

The graph reads w where it stands and the products with s happen on gradients and steps, so nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_client.training.optimizers import open_optimizer
from edge_client.training.runtime import StepRule
from wire_protocol.examples import Examples
from wire_protocol.sub_model import Arrays

_CACHE_LINE = 16
"""Numbers."""


@dataclass(frozen=True)
class Memory:
    """`parameters`, where they stand, and `gradients`, float32 arrays by parameter, the same in every step."""

    parameters: Arrays
    gradients: Arrays


class Gradient(Protocol):
    """Makes the gradient of a batch."""

    def make(self, batch: Examples) -> float:
        """Write it to the memory's gradients and return the batch's loss; raises `TrainingError`."""
        ...


OpenGradient = Callable[[Memory], Gradient]


class Descent:
    """Descends from a copy of `given`. All parameters are one vector, and so are all gradients."""

    def __init__(self, open_gradient: OpenGradient, given: Arrays, learning_rate: float, rule: StepRule) -> None:
        self._rule = rule
        self._weights, self._read = _one_vector(given)
        self._gradients, parts = _one_vector(given)
        for name, array in given.items():
            self._read[name][...] = array
        self._scaled = [(parts[name], np.float32(gain)) for name, gain in rule.gains.items()]
        self._pull = _Pull(given, rule, self._weights) if rule.training.proximal else None
        self._optimizer = open_optimizer(rule.training, learning_rate, self._weights.size)
        self._gradient = open_gradient(Memory(self._read, parts))

    def step(self, batch: Examples) -> float:
        """Take one step and return the loss before it; raises `TrainingError`."""
        loss = self._gradient.make(batch)
        with np.errstate(over="ignore", invalid="ignore"):
            self._scale()
            _clip(self._gradients, self._rule.training.clip_gradient)
            if self._pull is not None:
                self._pull.add_to(self._gradients)
            self._optimizer.step(self._gradients)
            self._scale()
            np.subtract(self._weights, self._gradients, out=self._weights)
        return loss

    def parameters(self) -> dict[str, NDArray[Any]]:
        """The parameters where the descent stands; one that never moved is to the bit what was given."""
        return self._read

    def _scale(self) -> None:
        for part, gain in self._scaled:
            np.multiply(part, gain, out=part)


class _Pull:
    """The gradient of FedProx's term on parameters that stand in `weights`."""

    def __init__(self, given: Arrays, rule: StepRule, weights: NDArray[Any]) -> None:
        self._weights, self._start = weights, weights.copy()
        self._moved, parts = _one_vector(given)
        self._scaled = [(parts[name], np.float32(gain)) for name, gain in rule.gains.items()]
        self._proximal = np.float32(rule.training.proximal)

    def add_to(self, gradients: NDArray[Any]) -> None:
        """Add proximal x (parameters - parameters at the start)."""
        np.subtract(self._weights, self._start, out=self._moved)
        for part, gain in self._scaled:
            np.divide(part, gain, out=part)
        self._moved *= self._proximal
        gradients += self._moved


def _clip(gradient: NDArray[Any], norm: float) -> None:
    if norm:
        found = float(np.sqrt(np.dot(gradient, gradient)))
        if found > norm:
            gradient *= np.float32(norm / found)


def _one_vector(arrays: Arrays) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """Zeros with room for these arrays, and views of their shapes into it, each from a cache line on."""
    starts = np.cumsum([0, *(-(-array.size // _CACHE_LINE) * _CACHE_LINE for array in arrays.values())]).tolist()
    vector = np.zeros(starts.pop(), dtype=np.float32)
    return vector, {
        name: vector[start : start + array.size].reshape(array.shape)
        for start, (name, array) in zip(starts, arrays.items(), strict=True)
    }

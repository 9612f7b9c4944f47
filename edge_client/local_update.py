"""A device's work in one round, as functions on values: choose neurons, train them, say what changed.

The same functions serve a device, a fleet in one process and a benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_client.local_data import batches, in_order
from edge_client.noise import add_gaussian_noise
from edge_client.selection import Scores, select
from edge_client.training.runtime import TrainingRuntime
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan, Update
from wire_protocol.sub_model import Arrays, SubModel, full_sub_model, sub_shapes, to_bitmaps, widths_at
from wire_protocol.tensor_codec import encode

SCORING_BATCH = 32
"""Bounds the memory that scoring takes; it does not change the scores."""


class Scorer(Protocol):
    """Scores neurons, as `edge_client.fisher.FisherScorer` does."""

    def scores(self, parameters: Arrays, batches: Iterable[Examples]) -> dict[str, NDArray[Any]]:
        """Score of every neuron: float [group size] for each group."""
        ...


OpenScorer = Callable[[], Scorer]


class Fitting(Protocol):
    """Says how wide a sub-model the device can afford, as `edge_client.round_fitting.RoundFitting` does."""

    def everything_fits(self) -> bool:
        """Whether all that the plan allows can be afforded; raises `CannotAffordError` where nothing can."""
        ...

    def widths(self, scores: Scores | None) -> Mapping[str, int]:
        """Neurons each group is to keep; raises `CannotAffordError`."""
        ...


@dataclass(frozen=True)
class LocalWork:
    """What a device has in a round: its order, its examples, and chance.

    `generator` draws batches and random selections and may be seeded; `noise` None means noise nobody can repeat.
    """

    plan: RoundPlan
    layout: Layout
    examples: Examples
    generator: np.random.Generator
    noise: np.random.Generator | None = None


@dataclass(frozen=True)
class Choice:
    """A selection of neurons, and how many examples were scored for it."""

    sub_model: SubModel
    scored: int = 0


def choose(work: LocalWork, full: Arrays, open_scorer: OpenScorer, fitting: Fitting | None = None) -> Choice:
    """Choose neurons by the plan's policy on the full model; the scorer is opened only where scores matter.

    Each group keeps the plan's share of its neurons, or fewer where `fitting` says so.
    """
    plan, most = work.plan, widths_at(work.layout, work.plan.keep)
    narrower = None if fitting is None or fitting.everything_fits() else fitting
    if narrower is None and most == work.layout.group_sizes:
        return Choice(full_sub_model(work.layout))
    if plan.selection == "random":
        sizes = {group.name: np.zeros(group.size, dtype=np.float32) for group in work.layout.groups}
        return Choice(select("random", sizes, most if narrower is None else narrower.widths(None), work.generator))
    scores = open_scorer().scores(full, in_order(work.examples, SCORING_BATCH))
    widths = most if narrower is None else narrower.widths(scores)
    return Choice(select(plan.selection, scores, widths, work.generator), scored=len(work.examples))


def train_update(work: LocalWork, choice: Choice, base: Arrays, runtime: TrainingRuntime) -> Update:
    """Train the chosen neurons from `base` (sub-model float32 arrays as received) and encode what changed.

    Raises `TrainingError` when training diverges and `InvalidValueError` when the change is not finite.
    """
    plan = work.plan
    drawn = batches(work.examples, plan.batch_size, plan.local_steps, work.generator)
    result = runtime.train(base, drawn, plan.learning_rate)
    change = {name: array - base[name] for name, array in result.parameters.items()}
    noised = add_gaussian_noise(change, plan.noise_stddev, work.noise)
    shapes = sub_shapes(work.layout, choice.sub_model.widths)
    return Update(
        run=plan.run,
        round=plan.round,
        model_version=plan.model_version,
        examples=len(work.examples),
        trained=result.examples,
        scored=choice.scored,
        loss=result.loss,
        kept=to_bitmaps(work.layout, choice.sub_model),
        precision=plan.precision,
        values=encode(noised, shapes, plan.precision),
    )

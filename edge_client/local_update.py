"""A device's work in one round, as functions on values: choose neurons, train them, say what changed.

The same functions serve a device, a fleet in one process and a benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_client.error_feedback import Sent, feeds_back, residual_after, with_residual
from edge_client.local_data import batches, in_order
from edge_client.noise import add_gaussian_noise
from edge_client.selection import select
from edge_client.training.runtime import TrainingRuntime
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan, Update
from wire_protocol.sub_model import Arrays, SubModel, full_sub_model, selection_id, sub_shapes, to_bitmaps
from wire_protocol.tensor_codec import decode, encode

SCORING_BATCH = 32
"""Bounds the memory that scoring takes; it does not change the scores."""


class Scorer(Protocol):
    """Scores neurons, as `edge_client.fisher.FisherScorer` does."""

    def scores(self, parameters: Arrays, batches: Iterable[Examples]) -> dict[str, NDArray[Any]]:
        """Score of every neuron: float [group size] for each group."""
        ...


OpenScorer = Callable[[], Scorer]


@dataclass(frozen=True)
class LocalWork:
    """What a device has in a round: its order, its examples, and chance.

    `generator` draws batches, random selections and roundings and may be seeded; `noise` None means noise nobody can
    repeat. `residual` is what earlier updates left out, by `error_feedback`; None where nothing is fed back.
    """

    plan: RoundPlan
    layout: Layout
    examples: Examples
    generator: np.random.Generator
    noise: np.random.Generator | None = None
    residual: Arrays | None = None


@dataclass(frozen=True)
class Choice:
    """A selection of neurons, and how many examples were scored for it. `known`: the server has sent their slice."""

    sub_model: SubModel
    scored: int = 0
    known: bool = False


class LocalUpdate(NamedTuple):
    """An update, and the residual of the full model once it is counted; None where nothing is fed back."""

    update: Update
    residual: Arrays | None


def choose(work: LocalWork, full: Arrays, open_scorer: OpenScorer) -> Choice:
    """Choose neurons by the plan's policy on the full model; the scorer is opened only where scores matter."""
    plan = work.plan
    if plan.keep == 1.0 or not work.layout.groups:
        return Choice(full_sub_model(work.layout))
    if plan.selection == "random":
        sizes = {group.name: np.zeros(group.size, dtype=np.float32) for group in work.layout.groups}
        return Choice(select("random", sizes, plan.keep, work.generator))
    scores = open_scorer().scores(full, in_order(work.examples, SCORING_BATCH))
    return Choice(select(plan.selection, scores, plan.keep, work.generator), scored=len(work.examples))


def train_update(work: LocalWork, choice: Choice, base: Arrays, runtime: TrainingRuntime) -> LocalUpdate:
    """Train the chosen neurons from `base` (sub-model float32 arrays as received) and encode what changed.

    Raises `TrainingError` when training diverges and `InvalidValueError` when the change is not finite.
    """
    plan = work.plan
    drawn = batches(work.examples, plan.batch_size, plan.local_steps, work.generator)
    result = runtime.train(base, drawn, plan.learning_rate)
    change = {name: array - base[name] for name, array in result.parameters.items()}
    values, residual = _encode_change(work, choice.sub_model, change)
    update = Update(
        run=plan.run,
        round=plan.round,
        model_version=plan.model_version,
        examples=len(work.examples),
        trained=result.examples,
        scored=choice.scored,
        loss=result.loss,
        kept={} if choice.known else to_bitmaps(work.layout, choice.sub_model),
        selection=selection_id(work.layout, choice.sub_model) if choice.known else b"",
        precision=plan.precision,
        top_k=plan.top_k,
        values=values,
    )
    return LocalUpdate(update, residual)


def _encode_change(work: LocalWork, sub_model: SubModel, change: Arrays) -> tuple[bytes, Arrays | None]:
    """Feedback wants the smallest error and rounds to nearest; without it, errors must be without bias."""
    plan = work.plan
    shapes = sub_shapes(work.layout, sub_model.widths)
    if work.residual is None or not feeds_back(plan):
        noised = add_gaussian_noise(change, plan.noise_stddev, work.noise)
        return encode(noised, shapes, plan.codec, work.generator), None
    wanted = with_residual(work.layout, sub_model, work.residual, change)
    values = encode(wanted, shapes, plan.codec)
    sent = decode(values, shapes, plan.codec)
    return values, residual_after(work.layout, sub_model, work.residual, Sent(wanted, sent))

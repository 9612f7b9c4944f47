"""A device's work in one round, as functions on values: choose neurons, train them, say what changed.

The same functions serve a device, a fleet in one process and a benchmark.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_client.error_feedback import Sent, feeds_back, residual_after, with_residual
from edge_client.errors import PrivacyError, StoppedError, TrainingError
from edge_client.local_data import batches, drawn, in_order
from edge_client.privacy.noise import fresh_generator
from edge_client.privacy.noised_scores import noised_scores, require_own_parameters
from edge_client.privacy.poisson_batches import poisson_batches
from edge_client.privacy.release import (
    Basis,
    ReleasedChange,
    ReleasedPositions,
    release_positions,
    release_trained,
    release_update,
)
from edge_client.selection.policies import is_by_scores, select
from edge_client.selection.policy import Ground
from edge_client.training.hidden_gain import gains
from edge_client.training.runtime import StepRule, TrainingRuntime
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.messages import RoundPlan, Update
from wire_protocol.neuron_scores import Scores, decode_ranking, encode_scores
from wire_protocol.privacy import RecordPrivacy
from wire_protocol.sub_model import Arrays, SubModel, full_sub_model, selection_id, sub_shapes, to_bitmaps
from wire_protocol.tensor_codec import decode, encode

logger = logging.getLogger(__name__)

SCORING_BATCH = 32
"""Bounds the memory that scoring takes; it does not change the scores."""


class Scorer(Protocol):
    """Scores neurons, as `edge_client.fisher.FisherScorer` does."""

    def scores(
        self, parameters: Arrays, batches: Iterable[Examples], clip_norm: float = inf
    ) -> dict[str, NDArray[Any]]:
        """Score of every neuron: float [group size] for each group, of gradients of at most the norm `clip_norm`."""
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

    `generator` draws batches, random selections and roundings and may be seeded. In a private run what is drawn for the
    sake of privacy comes from `noise`, which nobody can repeat. `public_size` is the number of the device's examples
    where everyone may know it; `charged` is how far the device's ledger came by the round's charge. `residual` is what
    earlier updates left out, by `error_feedback`; None where nothing is fed back.
    """

    plan: RoundPlan
    layout: Layout
    examples: Examples
    generator: np.random.Generator
    noise: np.random.Generator = field(default_factory=fresh_generator)
    residual: Arrays | None = None
    public_size: int | None = None
    charged: LedgerMark | None = None

    @property
    def told_examples(self) -> int:
        """The number of examples that an update tells of, and that weighs it."""
        plan = self.plan
        if plan.privacy is None:
            return len(self.examples)
        return plan.presumed_examples if self.public_size is None else self.public_size

    @property
    def divisor(self) -> float:
        """What sums over a private batch are divided by: the examples that are expected in one."""
        privacy = self.plan.privacy
        if isinstance(privacy, RecordPrivacy) and self.public_size is not None:
            return max(1.0, privacy.sampling_rate * self.public_size)
        return float(self.plan.batch_size)


@dataclass(frozen=True)
class Choice:
    """A selection of neurons, how many examples were scored for it, and the encoded scores where the plan asks.

    `known`: the server has sent the neurons' slice. `basis` is what the selection and the scores rest on.
    """

    sub_model: SubModel
    scored: int = 0
    scores: bytes = b""
    known: bool = False
    basis: Basis = "public"


class LocalUpdate(NamedTuple):
    """An update, and the residual of the full model once it is counted; None where nothing is fed back.

    `loss` is the mean training loss, which stays here; None in a private run.
    """

    update: Update
    residual: Arrays | None
    loss: float | None


def choose(work: LocalWork, full: Arrays, open_scorer: OpenScorer, fitting: Fitting | None = None) -> Choice:
    """Choose neurons by the plan's policy on the full model; the scorer is opened only where scores matter.

    Each group keeps the plan's share of its neurons, or fewer where `fitting` says so.
    """
    plan, layout = work.plan, work.layout
    narrower = None if fitting is None or fitting.everything_fits() else fitting
    widths: Mapping[str, int] = plan.largest_widths(layout)
    whole = narrower is None and widths == layout.group_sizes and not plan.wants_scores
    if whole or not layout.groups:
        return Choice(full_sub_model(layout))
    scoring = _Scoring(work, full, open_scorer)
    if narrower is not None:
        widths = narrower.widths(scoring.scores() if is_by_scores(plan.selection) else None)
    ground = Ground(
        layout=layout,
        widths=widths,
        parameters=full,
        resync_round=plan.resync_round,
        generator=work.generator,
        score=scoring.scores,
        ranking=decode_ranking(layout, plan.ranking) if plan.ranking else {},
    )
    sub_model = select(plan.selection, ground)
    scores = encode_scores(layout, scoring.scores()) if plan.wants_scores else b""
    return Choice(sub_model, scoring.scored, scores, basis=scoring.basis)


class _Scoring:
    """Scores of the full model on the device's examples, made at most once; `scored` examples were passed for them.

    Where the plan has some of them scored, sums over these stand for sums over all. In a private run they have noise.
    """

    def __init__(self, work: LocalWork, full: Arrays, open_scorer: OpenScorer) -> None:
        self.scored = 0
        self.basis: Basis = "public"
        self._work, self._full, self._open = work, full, open_scorer
        self._scores: Scores | None = None

    def scores(self) -> Scores:
        """The scores."""
        if self._scores is None:
            private = self._work.plan.privacy is not None
            self._scores = self._noised() if private else self._as_they_are()
            self.basis = "noised" if private else "examples"
        return self._scores

    def _as_they_are(self) -> Scores:
        work = self._work
        some = drawn(work.examples, work.plan.scored_of(len(work.examples)), work.generator)
        sums = self._open().scores(self._full, in_order(some, SCORING_BATCH))
        self.scored = len(some)
        return {group: values * (len(work.examples) / len(some)) for group, values in sums.items()}

    def _noised(self) -> Scores:
        work, privacy = self._work, self._work.plan.privacy
        if not isinstance(privacy, RecordPrivacy):
            raise PrivacyError(f"scores of {privacy} have no noise")
        require_own_parameters(work.layout)
        examples = in_order(work.examples, SCORING_BATCH)
        self.scored = work.told_examples
        return noised_scores(self._open().scores(self._full, examples, privacy.clip_norm), privacy, work.noise)


def train_update(work: LocalWork, choice: Choice, base: Arrays, runtime: TrainingRuntime) -> LocalUpdate:
    """Train the chosen neurons from `base` (sub-model float32 arrays as received) and encode what changed.

    Raises `TrainingError` when training diverges, unless the plan is private, as that would tell of the examples;
    `InvalidValueError` when the change is not finite, and `PrivacyError` where the plan is private and what would be
    sent is not.
    """
    plan = work.plan
    rule = StepRule(plan.training, gains(work.layout, plan.training.hidden_gain))
    if plan.privacy is not None:
        positions = release_positions(choice.sub_model, choice.basis)
        released = _release(work, base, runtime, rule)
        return LocalUpdate(private_update(work, choice, positions, released), None, None)
    result = runtime.train(base, _batches(work), plan.learning_rate, rule)
    change = {name: array - base[name] for name, array in result.parameters.items()}
    values, residual = _encode_change(work, choice.sub_model, change)
    update = _update(work, choice, result.examples, values)
    return LocalUpdate(update, residual, result.loss)


def _batches(work: LocalWork) -> Iterator[Examples]:
    plan, privacy = work.plan, work.plan.privacy
    if isinstance(privacy, RecordPrivacy):
        return poisson_batches(work.examples, privacy.sampling_rate, plan.local_steps, work.noise)
    return batches(work.examples, plan.batch_size, plan.local_steps, work.generator)


def _release(work: LocalWork, base: Arrays, runtime: TrainingRuntime, rule: StepRule) -> ReleasedChange:
    """What training changed, so that it may leave."""
    plan, privacy = work.plan, work.plan.privacy
    if isinstance(privacy, RecordPrivacy):
        result = runtime.train(base, _batches(work), plan.learning_rate, rule)
        return release_trained(privacy, runtime.privacy, base, result)
    assert privacy is not None
    trained = _trained_or_not(work, base, runtime, rule)
    return release_update(privacy, {name: array - base[name] for name, array in trained.items()}, work.noise)


def _trained_or_not(work: LocalWork, base: Arrays, runtime: TrainingRuntime, rule: StepRule) -> Arrays:
    """Where training fails, which would tell of the examples, or there are none, nothing was changed."""
    if not len(work.examples):
        return base
    try:
        return runtime.train(base, _batches(work), work.plan.learning_rate, rule).parameters
    except StoppedError:
        raise
    except TrainingError as error:
        logger.warning("nothing but noise is sent, as the training failed: %s", error)
        return base


def private_update(work: LocalWork, choice: Choice, positions: ReleasedPositions, change: ReleasedChange) -> Update:
    """The only way to an update of a private run; counts are what the plan says, as the true ones would tell."""
    plan, choice = work.plan, replace(choice, sub_model=positions.sub_model)
    shapes = sub_shapes(work.layout, choice.sub_model.widths)
    values = encode(change.arrays, shapes, plan.codec, work.generator)
    update = _update(work, choice, plan.local_steps * plan.batch_size, values)
    return msgspec.structs.replace(update, within=change.within)


def _update(work: LocalWork, choice: Choice, trained: int, values: bytes) -> Update:
    plan = work.plan
    return Update(
        run=plan.run,
        round=plan.round,
        model_version=plan.model_version,
        examples=work.told_examples,
        trained=trained,
        scored=choice.scored,
        kept={} if choice.known else to_bitmaps(work.layout, choice.sub_model),
        selection=selection_id(work.layout, choice.sub_model) if choice.known else b"",
        precision=plan.precision,
        top_k=plan.top_k,
        values=values,
        scores=choice.scores,
        ledger=work.charged,
    )


def _encode_change(work: LocalWork, sub_model: SubModel, change: Arrays) -> tuple[bytes, Arrays | None]:
    """Feedback wants the smallest error and rounds to nearest; without it, errors must be without bias."""
    plan = work.plan
    shapes = sub_shapes(work.layout, sub_model.widths)
    if work.residual is None or not feeds_back(plan):
        return encode(change, shapes, plan.codec, work.generator), None
    wanted = with_residual(work.layout, sub_model, work.residual, change)
    values = encode(wanted, shapes, plan.codec)
    sent = decode(values, shapes, plan.codec)
    return values, residual_after(work.layout, sub_model, work.residual, Sent(wanted, sent))

"""The next model, of a round's counted updates. Pure; for the server, and for fleets in one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.adaptive_clipping import ClipQuantile, Heard
from server.aggregation.fold import CountedUpdates, Scale, as_it_is, fold
from server.aggregation.rule import AggregationRule
from server.cohort import Cohort, silenced
from server.compute_account import Compute
from server.server_optimizers.optimizer import Parameters, ServerOptimizer, State
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan
from wire_protocol.neuron_scores import encode_ranking


@dataclass(frozen=True)
class Model:
    """`parameters` are full float32 arrays by name, `moments` the server optimizer's state after them; `ranking` is the
    fleet's, by the scores of the last resync round that was closed, empty without one. `clip_norm` is the next round's
    where it moves, None where it is the run's.
    """

    parameters: Parameters
    moments: State
    ranking: Mapping[str, bytes] = field(default_factory=dict)
    clip_norm: float | None = None


@dataclass(frozen=True)
class Combining:
    """How a run makes its next model: updates by `rule`, the step by `optimizer`, and the clip norm by `clipping`."""

    layout: Layout
    rule: AggregationRule
    optimizer: ServerOptimizer
    clipping: ClipQuantile | None = None

    def next_model(
        self, model: Model, plan: RoundPlan, updates: CountedUpdates, scale: Scale = as_it_is
    ) -> tuple[Model, Compute]:
        """What the updates counted in the round `plan`, at least one, make of a model, and what they cost."""
        heard = Heard(updates, plan)
        folded = fold(self.layout, heard, self.rule, scale)
        clip_norm = None if self.clipping is None else heard.clip_norm(self.clipping)
        parameters, moments = self.optimizer.apply(model.parameters, folded.aggregate, model.moments)
        if not plan.wants_scores:
            return Model(parameters, moments, model.ranking, clip_norm), folded.compute
        of_this_round = (one for one in updates if one.update.round == plan.round)
        ranking = Cohort(self.layout).hear(of_this_round).ranking()
        if ranking and not model.ranking:
            parameters = silenced(self.layout, parameters, ranking)
        return Model(parameters, moments, encode_ranking(ranking), clip_norm), folded.compute

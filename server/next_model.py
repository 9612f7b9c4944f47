"""The next model, of a round's counted updates. Pure; for the server, and for fleets in one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    fleet's, by the scores of the last resync round that was closed, empty without one.
    """

    parameters: Parameters
    moments: State
    ranking: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Combining:
    """How a run makes its next model: updates by `rule`, and the step by `optimizer`."""

    layout: Layout
    rule: AggregationRule
    optimizer: ServerOptimizer

    def next_model(
        self, model: Model, plan: RoundPlan, updates: CountedUpdates, scale: Scale = as_it_is
    ) -> tuple[Model, Compute]:
        """What the updates counted in the round `plan`, at least one, make of a model, and what they cost."""
        folded = fold(self.layout, updates, self.rule, scale)
        parameters, moments = self.optimizer.apply(model.parameters, folded.aggregate, model.moments)
        if not (plan.resync and plan.selection == "fisher-cohort"):
            return Model(parameters, moments, model.ranking), folded.compute
        of_this_round = (one for one in updates if one.update.round == plan.round)
        ranking = Cohort(self.layout).hear(of_this_round).ranking()
        if ranking and not model.ranking:
            parameters = silenced(self.layout, parameters, ranking)
        return Model(parameters, moments, encode_ranking(ranking)), folded.compute

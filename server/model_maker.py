"""Make a run's next model, of a round's counted updates or of an archived version, and see how good it is.

Each model is durable on disk before it is anyone's. Functions block, and can be done again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from server.aggregation.choice import aggregation_rule
from server.aggregation.fold import Scale, as_it_is
from server.bundle import Bundle
from server.compute_account import Compute
from server.config import RunConfig
from server.evaluation import Evaluation, Evaluator
from server.model_files import ModelFiles
from server.next_model import Combining, Model
from server.round_screening import RoundScreening
from server.round_trace import step_span
from server.round_work import RoundWork
from server.server_optimizers.choice import server_optimizer
from server.server_optimizers.optimizer import Parameters
from wire_protocol.examples import Examples
from wire_protocol.messages import RoundPlan


@dataclass(frozen=True)
class ModelMaker:
    """Models of one run. `held_out` evaluates them, None for no evaluation."""

    config: RunConfig
    bundle: Bundle
    models: ModelFiles
    screening: RoundScreening
    held_out: tuple[Evaluator, Examples] | None

    def next_model(self, model: Model, work: RoundWork) -> tuple[Model, Compute]:
        """What the updates counted in a round make of the model, and what they cost."""
        with step_span("screen"):
            updates = self.screening.close(work)
        with step_span("combine"):
            model, compute = self._combining.next_model(model, work.plan, updates, self._scale(work.plan))
        self.models.save_version(work.plan.model_version + 1, model.parameters, model.moments)
        return model, compute

    def restored(self, model: Model, fresh: int) -> Model:
        """What a roll back was ordered to, as version `fresh`, in place of the model; moments begin afresh.

        Raises `BundleError` where it is lost.
        """
        parameters = self.models.load_roll_back(self.bundle.layout)
        moments = self._combining.optimizer.init(parameters)
        self.models.save_version(fresh, parameters, moments)
        return replace(model, parameters=parameters, moments=moments)

    def evaluate(self, parameters: Parameters) -> Evaluation | None:
        """How good a model is on held-out examples, None without any."""
        if self.held_out is None:
            return None
        evaluator, examples = self.held_out
        with step_span("evaluate"):
            return evaluator.evaluate(parameters, examples)

    @cached_property
    def _combining(self) -> Combining:
        config, layout = self.config, self.bundle.layout
        rule, optimizer = aggregation_rule(config.aggregation, layout), server_optimizer(config.server_optimizer)
        return Combining(layout, rule, optimizer, config.clipping)

    def _scale(self, plan: RoundPlan) -> Scale:
        buffer = self.config.buffer
        if buffer is None:
            return as_it_is
        return lambda update: buffer.discount(plan.model_version - update.model_version)

"""Fits rounds to what a device can afford: asks the sensors, calibrates where that was not done, predicts, and decides.

The decisions are those of `limits`, `round_cost` and `fitting`; here they get their figures. Functions block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_client.calibration import (
    Calibration,
    Probe,
    load_calibration,
    measure_scoring,
    measure_training,
    save_calibration,
)
from edge_client.cost_model import Columns, fit_costs
from edge_client.durable_files import plainly, write_checked
from edge_client.errors import CannotAffordError
from edge_client.fitting import Fitted, Problem, fit
from edge_client.limits import Limits
from edge_client.link_account import LinkAccount
from edge_client.local_update import LocalWork, OpenScorer
from edge_client.machine_sensors import Sensors
from edge_client.round_cost import RESOURCES, Room, RoundCost, update_bytes
from edge_client.training.runtime import TrainingRuntime
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan, encode
from wire_protocol.neuron_scores import Scores

logger = logging.getLogger(__name__)

CALIBRATION_FILE, LINK_FILE, PLAN_FILE = "calibration", "link", "last_plan"
_WORDS = dict(zip(RESOURCES, ("{:.1f} s of work", "{:.1f} s with sending", "{:,.0f} bytes", "{:.0f} MB"), strict=True))


@dataclass(frozen=True)
class Subject:
    """A round to be fitted, and what to measure on; `scores` says that its selection reads scores."""

    plan: RoundPlan
    layout: Layout
    examples: Examples
    runtime: TrainingRuntime
    open_scorer: OpenScorer
    scores: bool
    threads: int = 1

    @property
    def key(self) -> str:
        """What a calibration depends on, beside the machine."""
        batch = min(self.plan.batch_size, len(self.examples))
        return f"bundle {self.plan.bundle}, {self.runtime.name}, {self.threads} threads, batches of {batch}"


@dataclass(frozen=True)
class Fitter:
    """What decides for one device; `state` is its folder."""

    limits: Limits
    state: Path
    account: LinkAccount
    sensors: Sensors

    def require_bytes(self, count: int) -> None:
        """Raise `CannotAffordError` where so many bytes more go beyond today's allowance."""
        left = self.account.bytes_left(self.limits.bytes_per_day)
        if count > left:
            raise CannotAffordError(f"the model takes {count:,} bytes, bytes_per_day leaves {left:,.0f} today")

    def begin(self, subject: Subject, left_seconds: Callable[[], float]) -> RoundFitting:
        """Fit a round with `left_seconds` until its deadline; calibrates first where that was not done.

        Raises `TrainingError` where the graphs do not run.
        """
        calibration = self.calibrated(subject)
        self.account.round_began()
        self.account.save()
        self._note_plan(subject.plan)
        return RoundFitting(self, subject, self.cost(subject, calibration), self.room(left_seconds()))

    def _note_plan(self, plan: RoundPlan) -> None:
        """For `fisherfleet-edge fit`, which has no broker to ask."""
        try:
            write_checked(self.state / PLAN_FILE, encode(plan))
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.state / PLAN_FILE, plainly(error))

    def calibrated(self, subject: Subject) -> Calibration:
        """What was measured for a subject on this machine, measured now where it was not."""
        path, key = self.state / CALIBRATION_FILE, f"{subject.key}, {_runtime_version()}, {self.sensors.machine()}"
        found = load_calibration(path, key)
        if found is not None and (found.scoring_seconds is not None or not subject.scores):
            return found
        logger.info("measuring what training costs on this machine: %s", key)
        probe = Probe(self.sensors.seconds, self.sensors.peak_memory_mb, self.limits.memory_mb)
        work = LocalWork(subject.plan, subject.layout, _measured_on(subject), np.random.default_rng(0))
        if found is None:
            found = Calibration(key, measure_training(work, subject.runtime, probe))
        if subject.scores:
            seconds, megabytes = measure_scoring(work, subject.open_scorer(), probe)
            found = Calibration(key, found.points, seconds, megabytes)
        save_calibration(path, found)
        return found

    def cost(self, subject: Subject, calibration: Calibration) -> RoundCost:
        """What a round of this subject costs, scoring not included."""
        fixed, each = update_bytes(subject.layout, subject.plan, subject.plan.largest_widths(subject.layout))
        return RoundCost(
            model=fit_costs(subject.layout, calibration.points),
            steps=subject.plan.local_steps,
            fixed_bytes=fixed,
            bytes_an_element=each,
            bytes_per_second=self.account.link.bytes_per_second,
            scoring_seconds=(calibration.scoring_seconds or 0.0) * subject.plan.scored_of(len(subject.examples)),
            scoring_mb=calibration.scoring_mb or 0.0,
        )

    def room(self, until_deadline: float) -> Room:
        """What there is for a round whose neurons are still to be chosen."""
        return Room(
            seconds=self.limits.seconds_per_round,
            until_deadline=until_deadline,
            bytes=self.account.bytes_share(self.limits.bytes_per_day, until_deadline),
            memory_mb=self.limits.memory_mb,
        )

    def bytes_left(self) -> float:
        """Bytes that are left today."""
        return self.account.bytes_left(self.limits.bytes_per_day)


def _measured_on(subject: Subject) -> Examples:
    """In a private run examples of zeros: whether graphs fail on the device's own must not decide what it sends."""
    real = subject.examples
    if subject.plan.privacy is None:
        return real
    x, y = (np.zeros((max(1, len(real)), *array.shape[1:]), array.dtype) for array in (real.x, real.y))
    return Examples(x, y)


class RoundFitting:
    """One round, from when its work begins: what fits, before scores are known and after."""

    def __init__(self, fitter: Fitter, subject: Subject, cost: RoundCost, room: Room) -> None:
        self._fitter = fitter
        self._subject = subject
        self._cost = cost
        self._room = room
        self._began = fitter.sensors.seconds()

    def everything_fits(self) -> bool:
        """Whether all that the plan allows can be afforded; raises `CannotAffordError` where not even the least can."""
        layout, plan = self._subject.layout, self._subject.plan
        scoring = self._subject.scores and plan.largest_widths(layout) != layout.group_sizes
        if (
            fit_subject(self._subject, self._cost.with_scoring() if scoring else self._cost, self._room, None).binds
            is None
        ):
            return True
        cost = self._cost.with_scoring() if self._subject.scores else self._cost
        _require_affordable(fit_subject(self._subject, cost, self._room, None), self._room)
        return False

    def widths(self, scores: Scores | None) -> dict[str, int]:
        """The widths to train; raises `CannotAffordError`."""
        cost = self._cost
        if scores is not None:
            cost = replace(cost.with_scoring(), scoring_seconds=self._fitter.sensors.seconds() - self._began)
        fitted = fit_subject(self._subject, cost, self._room, scores)
        _require_affordable(fitted, self._room)
        logger.info("%s", describe(fitted))
        return cost.model.sizes.named(fitted.widths)

    def require(self, widths: Mapping[str, int]) -> None:
        """Raise `CannotAffordError` where neurons chosen in an earlier round cannot be afforded in this one."""
        row = self._cost.model.sizes.row(widths)[0]
        room = replace(self._room, bytes=self._fitter.bytes_left())
        fitted = fit(Problem(row, room.row, self._cost.uses))
        if fitted.binds is not None:
            used = self._cost.uses(row[None])[0]
            raise CannotAffordError(_excess("the neurons kept need", used, room, int(np.argmax(used / room.row))))


def fit_subject(subject: Subject, cost: RoundCost, room: Room, scores: Scores | None) -> Fitted:
    """The plan for a subject; without scores its groups grow evenly."""
    groups = cost.model.sizes.groups
    most = cost.model.sizes.row(subject.plan.largest_widths(subject.layout))[0]
    listed = None if scores is None else [scores[group] for group in groups]
    return fit(Problem(most, room.row, cost.uses, listed))


def describe(fitted: Fitted) -> str:
    """A plan in one line."""
    figures = ", ".join(_WORDS[name].format(used) for name, used in zip(RESOURCES, fitted.uses, strict=True))
    binds = "keep" if fitted.binds is None else RESOURCES[fitted.binds]
    return f"fitted: {100 * fitted.mass:.0f} % of the Fisher mass for {figures}; {binds} binds"


def _require_affordable(fitted: Fitted, room: Room) -> None:
    if not fitted.affordable:
        assert fitted.binds is not None
        raise CannotAffordError(_excess("the smallest sub-model needs", fitted.uses, room, fitted.binds))


def _excess(what: str, used: Columns, room: Room, resource: int) -> str:
    words = _WORDS[RESOURCES[resource]]
    allowed = words.format(float(room.row[resource]))
    return f"{what} {words.format(float(used[resource]))}, {RESOURCES[resource]} leaves {allowed}"


def _runtime_version() -> str:
    from edge_client.onnxruntime_import import import_onnxruntime  # noqa: PLC0415 - loaded when training begins

    return f"onnxruntime {import_onnxruntime().__version__}"

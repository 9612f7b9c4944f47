"""What training and scoring cost on this machine: measured on the bundle's real graphs, once, and kept on disk.

A few widths are trained for a few steps each, from narrow to wide, in several turns; the median step counts, so that a
neighbour's short burst of work spoils no figure. A width that would go beyond the memory limit or take too long, by
what the narrower ones took, is not tried. Weights are drawn at random: times do not depend on them.

    <state>/calibration

What was measured holds for one bundle, runtime, thread count, batch size and machine; with another it is measured
anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_client.cost_model import LayoutSizes, Measured, fit_costs
from edge_client.durable_files import plainly, read_checked, write_checked
from edge_client.errors import DamagedFileError
from edge_client.fitting import BLOCK
from edge_client.local_data import in_order
from edge_client.local_update import SCORING_BATCH, Choice, LocalWork, Scorer, train_update
from edge_client.training.runtime import PLAIN_STEPS, StepRule, TrainingResult, TrainingRuntime
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays, SubModel, sub_shapes

logger = logging.getLogger(__name__)

FORMAT = 1
MAX_BYTES = 1024 * 1024
MOST_KEPT = 4
FRACTIONS = (0.0, 0.25, 0.5, 1.0)
STEPS, WARM_UP_STEPS, TURNS = 4, 1, 3
SCORED_BATCHES = 4
LONGEST_STEP_SECONDS = 5.0
"""Wider models than one whose step takes this long are not tried."""
LEARNING_RATE = 1e-6
_WEIGHT_SIZE = 0.05


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`points` are from narrow to wide. Scoring costs `scoring_seconds` an example and reaches `scoring_mb`; None where
    it was not measured.
    """

    key: str
    points: tuple[Measured, ...]
    scoring_seconds: float | None = None
    scoring_mb: float | None = None


@dataclass(frozen=True)
class Probe:
    """How to look at the machine: a clock in seconds, the peak memory since the last look, and the memory allowed."""

    seconds: Callable[[], float]
    peak_memory_mb: Callable[[], float]
    most_mb: float = inf


def widths_to_measure(layout: Layout) -> list[dict[str, int]]:
    """Four even widths from a block a group to the whole, and two uneven ones that tell early layers from late."""
    sizes = layout.group_sizes
    even = [{name: max(min(BLOCK, size), round(part * size)) for name, size in sizes.items()} for part in FRACTIONS]
    early = list(sizes)[: len(sizes) // 2]
    narrow, wide = even[1], even[-1]
    uneven = [{name: (wide if (name in early) is side else narrow)[name] for name in sizes} for side in (True, False)]
    different = {tuple(widths.values()): widths for widths in [*even, *uneven]}
    counts = LayoutSizes(layout)
    return sorted(different.values(), key=lambda widths: float(counts.multiply_accumulates(counts.row(widths))[0]))


def measure_training(work: LocalWork, runtime: TrainingRuntime, probe: Probe) -> tuple[Measured, ...]:
    """Train each width for a few steps; at least the narrowest is measured. Raises `TrainingError`."""
    few = replace(work, plan=msgspec.structs.replace(work.plan, local_steps=STEPS, learning_rate=LEARNING_RATE))
    timed = _TimedRuntime(runtime, probe.seconds)
    turns: list[list[_Turn]] = []
    found: list[Measured] = []
    for widths in widths_to_measure(work.layout):
        if found and not _worth_trying(work.layout, found, widths, probe.most_mb):
            break
        probe.peak_memory_mb()
        turns.append([_turn(few, timed, widths)])
        found.append(_measured(widths, turns[-1], probe.peak_memory_mb()))
    for _ in range(TURNS - 1):
        for one, of_width in zip(found, turns, strict=True):
            of_width.append(_turn(few, timed, one.widths))
    return tuple(_measured(one.widths, of_width, one.peak_mb) for one, of_width in zip(found, turns, strict=True))


def measure_scoring(work: LocalWork, scorer: Scorer, probe: Probe) -> tuple[float, float]:
    """Score some examples on the whole model; returns seconds an example and peak megabytes. Raises `TrainingError`."""
    parameters = _random_parameters(work.layout, work.layout.group_sizes)
    some = work.examples.take(np.arange(min(SCORED_BATCHES * SCORING_BATCH, len(work.examples))))
    probe.peak_memory_mb()
    seconds = []
    for _ in range(1 + TURNS):
        began = probe.seconds()
        scorer.scores(parameters, in_order(some, SCORING_BATCH))
        seconds.append(probe.seconds() - began)
    return median(seconds[1:]) / len(some), probe.peak_memory_mb()


class _TimedRuntime:
    """`inner`, and the moments at which it asked for its last training's batches: between two of them is a step."""

    def __init__(self, inner: TrainingRuntime, clock: Callable[[], float]) -> None:
        self.name, self.privacy = inner.name, inner.privacy
        self.clock = clock
        self.moments: list[float] = []
        self._inner = inner

    def train(
        self, parameters: Arrays, batches: Iterable[Examples], learning_rate: float, rule: StepRule = PLAIN_STEPS
    ) -> TrainingResult:
        """See `TrainingRuntime.train`."""
        self.moments = []
        return self._inner.train(parameters, self._noted(batches), learning_rate, rule)

    def _noted(self, batches: Iterable[Examples]) -> Iterator[Examples]:
        for batch in batches:
            self.moments.append(self.clock())
            yield batch
        self.moments.append(self.clock())


@dataclass(frozen=True)
class _Turn:
    """Seconds of each step but the first, and of all that comes once in a round: what the first took longer, too."""

    steps: list[float]
    once: float


def _turn(work: LocalWork, runtime: _TimedRuntime, widths: Mapping[str, int]) -> _Turn:
    choice = Choice(SubModel({group: np.arange(width) for group, width in widths.items()}))
    parameters = _random_parameters(work.layout, widths)
    began = runtime.clock()
    train_update(work, choice, parameters, runtime)
    took, moments = runtime.clock() - began, runtime.moments
    steps = [later - earlier for earlier, later in pairwise(moments)]
    usual = steps[WARM_UP_STEPS:]
    return _Turn(usual, max(0.0, took - len(steps) * median(usual)))


def _measured(widths: Mapping[str, int], turns: Sequence[_Turn], peak_mb: float) -> Measured:
    steps = [seconds for turn in turns for seconds in turn.steps]
    return Measured(dict(widths), median(steps), median(turn.once for turn in turns), peak_mb)


def _worth_trying(layout: Layout, found: list[Measured], widths: Mapping[str, int], most_mb: float) -> bool:
    if found[-1].step_seconds > LONGEST_STEP_SECONDS or max(one.peak_mb for one in found) > most_mb:
        return False
    model = fit_costs(layout, found)
    return float(model.peak_mb(model.sizes.row(widths))[0]) <= most_mb


def _random_parameters(layout: Layout, widths: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(0)
    return {
        name: generator.standard_normal(shape, dtype=np.float32) * np.float32(_WEIGHT_SIZE)
        for name, shape in sub_shapes(layout, widths).items()
    }


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    calibrations: tuple[Calibration, ...]


def load_calibration(path: Path, key: str) -> Calibration | None:
    """What was measured under this key, None where nothing was or the file cannot be used."""
    return next((one for one in _load(path) if one.key == key), None)


def save_calibration(path: Path, calibration: Calibration) -> None:
    """Keep it, and a few others; one that cannot be written is a log line, and measured again another time."""
    others = [one for one in _load(path) if one.key != calibration.key]
    record = _Record(FORMAT, (calibration, *others[: MOST_KEPT - 1]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checked(path, msgspec.msgpack.encode(record))
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, plainly(error))


def _load(path: Path) -> Sequence[Calibration]:
    try:
        record = msgspec.msgpack.decode(read_checked(path, MAX_BYTES), type=_Record)
    except FileNotFoundError:
        return ()
    except (OSError, DamagedFileError, msgspec.DecodeError, ValueError, RecursionError):
        logger.warning("%s cannot be read or is damaged: it is measured anew", path)
        return ()
    return record.calibrations if record.format == FORMAT else ()

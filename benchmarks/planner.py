"""What the planner predicts at random limits against what then happens: seconds, bytes and memory.

    python -m benchmarks.planner --json planner.json
    python -m benchmarks.planner --models lenet,mlp --limits 6

For each model: one calibration, then for each draw of limits (seconds a round and bytes a day, log-uniform between what
the smallest sub-model and the whole model need) the planner's widths are trained for real by the device's own code, and
the update is encoded and sealed. Predicted and measured seconds are those of choosing and training; bytes are those of
the sealed update and its announcement. Rounds take turns with those of the other draws, and the median of the turns
counts, as other work on the machine comes in bursts. Scores are the real ones of the initial model. The bar: 20 %.

Seconds are the processor's for this process, on both sides: they are those of the clock where nothing else runs, and
can be compared where something does. `--clock wall` takes those of the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figures import benchmark_parser, publish
from benchmarks.zoo_subject import random_examples, zoo_subject
from edge_client.errors import CannotAffordError
from edge_client.fisher import FisherScorer
from edge_client.fitting import BLOCK
from edge_client.limits import Limits
from edge_client.link_account import LinkAccount
from edge_client.local_data import in_order
from edge_client.local_update import SCORING_BATCH, Choice, LocalWork, train_update
from edge_client.machine_sensors import Sensors
from edge_client.round_cost import RESOURCES, Room, RoundCost
from edge_client.round_fitting import Fitter, Subject, fit_subject
from edge_client.selection.policy import first_of
from edge_client.training.portable import PortableRuntime
from wire_protocol.chunking import manifest_of
from wire_protocol.envelope import Context, seal
from wire_protocol.identity import new_identity
from wire_protocol.messages import RoundPlan, encode
from wire_protocol.neuron_scores import Scores, rank
from wire_protocol.sub_model import gather

BATCH, EXAMPLES, TURNS = 32, 320, 5
BAR = 0.2
CLOCKS = {"processor": time.process_time, "wall": time.monotonic}


@dataclass(frozen=True)
class Round:
    """A draw of limits, the plan for it, and what carrying it out takes, by turn."""

    limits: Room
    choice: Choice
    predicted: np.ndarray[tuple[int], np.dtype[np.float64]]
    binds: str
    seconds: list[float]
    bytes: list[int]


def plan_of(name: str, steps: int) -> RoundPlan:
    """An order to train the whole model."""
    return RoundPlan(
        run=name, round=1, resync_round=1, model_version=0, bundle="0" * 64, model="0" * 64, deadline=0.0,
        local_steps=steps, batch_size=BATCH, learning_rate=1e-4, keep=1.0,
    )  # fmt: skip


def planned(subject: Subject, cost: RoundCost, scores: Scores, generator: np.random.Generator) -> Round:
    """The plan for a draw of limits."""
    sizes = cost.model.sizes
    ends = np.concatenate([sizes.row(dict.fromkeys(sizes.groups, BLOCK)), sizes.row(subject.layout.group_sizes)])
    low, high = cost.uses(np.minimum(ends, ends[1]))
    seconds, size = (float(np.exp(generator.uniform(log(low[at]), log(high[at])))) for at in (0, 2))
    room = Room(seconds=seconds, bytes=size)
    fitted = fit_subject(subject, cost, room, scores)
    if not fitted.affordable:
        raise CannotAffordError(f"{subject.plan.run} cannot be trained within {room}")
    choice = Choice(first_of(rank(scores), sizes.named(fitted.widths)), scored=len(subject.examples))
    binds = "keep" if fitted.binds is None else RESOURCES[fitted.binds]
    return Round(room, choice, fitted.uses, binds, [], [])


def rounds_of(name: str, steps: int, draws: int, folder: Path, clock: Callable[[], float]) -> list[Round]:
    """Plan a dozen rounds of one model and carry them out in turns."""
    made = zoo_subject(name, BATCH, folder / "bundle")
    layout, plan = made.manifest.layout, plan_of(name, steps)
    examples = random_examples(made.manifest, made.words, EXAMPLES)
    runtime = PortableRuntime.open(made.bundle, layout)
    scorer = FisherScorer.open(made.bundle, layout)
    sensors = Sensors(seconds=clock)
    fitter = Fitter(Limits(), folder, LinkAccount(None, sensors.local_time), sensors)
    subject = Subject(plan, layout, examples, runtime, lambda: scorer, scores=True)
    cost = replace(fitter.cost(subject, fitter.calibrated(subject)), scores=True)
    scores = scorer.scores(dict(made.parameters), in_order(examples, SCORING_BATCH))
    generator, keys = np.random.default_rng(0), new_identity()
    rounds = [planned(subject, cost, scores, generator) for _ in range(draws)]
    for one in TURNS * rounds:
        began = clock()
        scorer.scores(dict(made.parameters), in_order(examples, SCORING_BATCH))
        base = gather(layout, one.choice.sub_model, made.parameters)
        update = train_update(LocalWork(plan, layout, examples, generator), one.choice, base, runtime).update
        one.seconds.append(clock() - began)
        payload = seal(encode(update), Context("update", "fleet", name, 1, "device"), [keys], keys.public)
        one.bytes.append(len(payload) + len(encode(manifest_of(payload))))
    return rounds


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Predicted against measured seconds and bytes of fitted rounds.")
    parser.add_argument("--models", default="lenet,mlp,ds_cnn", help="of the zoo, separated by commas")
    parser.add_argument("--limits", type=int, default=12, help="draws of limits a model")
    parser.add_argument("--steps", type=int, default=20, help="local steps a round")
    parser.add_argument("--clock", choices=CLOCKS, default="processor")
    options = parser.parse_args()
    table, figures = [], {}
    for name in options.models.split(","):
        with TemporaryDirectory() as folder:
            rounds = rounds_of(name, options.steps, options.limits, Path(folder), CLOCKS[options.clock])
        rows = [_figures(one) for one in rounds]
        figures[name] = rows
        table += [{"model": name, **_words(row)} for row in rows]
    worst = {
        name: {key: max(abs(row[f"{key}_error"]) for row in rows) for key in ("seconds", "bytes")}
        for name, rows in figures.items()
    }
    publish(f"Planner, {options.steps} steps of {BATCH}, one thread; worst errors {worst}, bar {BAR}", table,
            {"rounds": figures, "worst": worst, "bar": BAR}, options.json)  # fmt: skip


def _words(row: Mapping[str, float | str]) -> dict[str, str]:
    return {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}


def _figures(one: Round) -> dict[str, float | str]:
    seconds, size = median(one.seconds), float(median(one.bytes))
    return {
        "limit s": one.limits.seconds,
        "limit bytes": one.limits.bytes,
        "binds": one.binds,
        "widths": "-".join(str(width) for width in one.choice.sub_model.widths.values()),
        "predicted_seconds": float(one.predicted[0]),
        "seconds": seconds,
        "seconds_error": float(one.predicted[0]) / seconds - 1,
        "predicted_bytes": float(one.predicted[2]),
        "bytes": size,
        "bytes_error": float(one.predicted[2]) / size - 1,
    }


if __name__ == "__main__":
    main()

"""What privacy costs: accuracy of private fleets by epsilon, dense and as sub-models, on Fashion-MNIST.

    python -m benchmarks.private_accuracy --json docs/results/private_accuracy.json

Every device holds an equal share of the 60,000 training images and adds noise of its own; epsilon is that of each
device, by its ledger, over the whole run, at delta 1e-5. All learn the network of
`oriented_filters`, which begins from filters that do not depend on the data.

`dense` is FedAvg on the full model, `narrow` a dense model of the sub-models' width. `magnitude` and `random` choose
neurons without a look at the data; `fisher, noised scores` pays for its choice, and so does `fisher-cohort`, which
makes one for the fleet after the first round; `fisher, true positions` has noised values at positions that true
scores chose, which is **not private** and stands here to show what the choice is worth.
Rows are {mode, epsilon, method, private, seed, accuracy}, epsilon null without privacy; rows that a file has already
are not run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from math import sqrt
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch

from benchmarks.figures import benchmark_parser, print_table
from benchmarks.in_memory_fleet import Fleet, Method, ServerSide, accuracies
from benchmarks.method_table import read_rows, write_rows
from benchmarks.oriented_filters import OrientedFilters
from devices.emulation.datasets import load_dataset
from devices.emulation.splits import dirichlet_split
from model_export.export import export_bundle
from server.privacy.calibration import Target, noise_multiplier_for
from server.privacy.schedule import DeviceSchedule, RecordSchedule
from server.run_schedule import has_trial_round
from server.server_optimizers.fed_avg_m import FedAvgM
from wire_protocol.messages import SelectionPolicy
from wire_protocol.privacy import DevicePrivacy, Privacy, RecordPrivacy

ModeName = Literal["record", "device"]
MethodName = Literal[
    "dense",
    "narrow",
    "magnitude",
    "random",
    "fisher, noised scores",
    "fisher-cohort, noised scores",
    "fisher, true positions",
]
METHODS: tuple[MethodName, ...] = get_args(MethodName)
POLICIES: dict[MethodName, SelectionPolicy] = {
    "dense": "full",
    "narrow": "full",
    "magnitude": "magnitude",
    "random": "random",
    "fisher, noised scores": "fisher",
    "fisher-cohort, noised scores": "fisher-cohort",
    "fisher, true positions": "random",  # what the plan says, as it may not ask for what this is
}
EPSILONS = (1.0, 2.0, 3.0, 4.0, 8.0)
DELTA = 1e-5
LAST_ROUNDS = 3


@dataclass(frozen=True)
class Mode:
    """How a private fleet trains full models; in a step each of a device's examples takes part at `sampling_rate`.

    Scores, where a method pays for them, have noise of `score_noise` times the clip norm's square.
    """

    devices: int
    rounds: int
    local_steps: int
    sampling_rate: float
    clip_norm: float
    learning_rate: float
    momentum: float
    keep: float
    resync_every: int
    score_noise: float

    def for_part(self) -> Mode:
        """For the fraction `keep` of the neurons: gradients are as much smaller, examples as much cheaper."""
        rate = min(1.0, self.sampling_rate / self.keep)
        return replace(self, clip_norm=self.clip_norm * sqrt(self.keep), sampling_rate=rate)

    def chosen_once(self) -> Mode:
        """With one choice of neurons for the whole run."""
        return replace(self, resync_every=self.rounds)


MODES: dict[ModeName, Mode] = {
    "record": Mode(20, 60, 1, 0.1, 0.5, 48.0, 0.9, 0.5, 20, 10.0),
    "device": Mode(100, 6, 4, 0.25, 1.0, 3.0, 0.0, 0.5, 6, 0.0),
}


@dataclass(frozen=True)
class Case:
    """One row; `epsilon` None is no privacy."""

    mode: ModeName
    epsilon: float | None
    method: MethodName
    seed: int

    @property
    def settings(self) -> Mode:
        """How its fleet trains."""
        mode = MODES[self.mode]
        if self.method == "dense":
            return mode
        return mode.for_part().chosen_once() if "cohort" in self.method else mode.for_part()


def all_cases(seeds: int) -> Iterator[Case]:
    """Every case that can be; without privacy, scores need no noise, and dense models and Fisher selection suffice."""
    for mode, seed, epsilon, method in product(MODES, range(seeds), (None, *EPSILONS), METHODS):
        plain = epsilon is None and method not in {"dense", "narrow", "fisher, true positions"}
        if not plain and not (mode == "device" and "noised" in method):
            yield Case(mode, epsilon, method, seed)


def privacy_of(case: Case) -> Privacy | None:
    """The noise that leaves all rounds within the case's epsilon."""
    if case.epsilon is None:
        return None
    mode, target = case.settings, Target(case.epsilon, DELTA)
    if case.mode == "device":
        return DevicePrivacy(mode.clip_norm, noise_multiplier_for(target, DeviceSchedule(mode.rounds)))
    scores = mode.score_noise if "noised" in case.method else 0.0
    schedule = RecordSchedule(
        mode.rounds,
        mode.local_steps,
        mode.sampling_rate,
        scores,
        mode.resync_every,
        has_trial_round(POLICIES[case.method]),
    )
    return RecordPrivacy(mode.clip_norm, noise_multiplier_for(target, schedule), mode.sampling_rate, scores)


def run(case: Case) -> dict[str, Any]:
    """Train; the row."""
    mode, dataset = case.settings, load_dataset("fashion-mnist", None, case.seed)
    split = dirichlet_split(dataset.train.y, mode.devices, 1e6, case.seed)
    shares = [dataset.train.take(indices) for indices in split]
    torch.manual_seed(case.seed)
    with TemporaryDirectory() as folder:
        module = OrientedFilters(mode.keep if case.method == "narrow" else 1.0)
        manifest = export_bundle(module, dataset.input_shape, Path(folder), name="oriented-filters")
        fleet = Fleet(Path(folder), manifest, shares, dataset.test, case.seed)
        server = ServerSide(optimizer=FedAvgM(1.0, mode.momentum))
        rounds = list(accuracies(fleet, method_of(case, len(shares[0])), server))
        return {
            "mode": case.mode,
            "epsilon": case.epsilon,
            "method": case.method,
            "private": case.epsilon is not None and case.method != "fisher, true positions",
            "seed": case.seed,
            "accuracy": round(mean(one.accuracy for one in rounds[-LAST_ROUNDS:]), 5),
        }


def method_of(case: Case, share: int) -> Method:
    """How the fleet of a case trains; `share` examples are on each device."""
    mode = case.settings
    return Method(
        rounds=mode.rounds,
        keep=1.0 if case.method in {"dense", "narrow"} else mode.keep,
        selection=POLICIES[case.method],
        resync_every=mode.resync_every,
        local_steps=mode.local_steps,
        batch_size=max(1, round(mode.sampling_rate * share)),
        learning_rate=mode.learning_rate,
        rate_decay="cosine",
        privacy=privacy_of(case),
        true_positions=case.method == "fisher, true positions",
    )


def main() -> None:
    """Run the benchmark."""
    options = _options()
    rows = read_rows(options.json)
    known = {(row["mode"], row["epsilon"], row["method"], row["seed"]) for row in rows}
    missing = [
        case
        for case in all_cases(options.seeds)
        if case.mode in options.modes
        and case.epsilon in options.epsilons
        and (case.mode, case.epsilon, case.method, case.seed) not in known
    ]
    with ProcessPoolExecutor(options.workers) as pool:
        for row in pool.map(run, missing):
            rows.append(row)
            write_rows(options.json, rows)
            sys.stderr.write(f"{row}\n")
    print_table(f"accuracy %, 20 or 100 devices, delta {DELTA:g}", table_rows(rows))


def table_rows(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each mode and method, a column for each epsilon."""
    return [
        {"mode": mode, "method": method + ("" if method != "fisher, true positions" else " (not private)")}
        | {_column(epsilon): _cell(rows, mode, epsilon, method) for epsilon in (None, *EPSILONS)}
        for mode, method in product(MODES, METHODS)
    ]


def _column(epsilon: float | None) -> str:
    return "no privacy" if epsilon is None else f"epsilon {epsilon:g}"


def _cell(rows: list[dict[str, Any]], mode: str, epsilon: float | None, method: str) -> str:
    wanted = (mode, epsilon, method)
    found = [100 * row["accuracy"] for row in rows if (row["mode"], row["epsilon"], row["method"]) == wanted]
    return ", ".join(f"{accuracy:.1f}" for accuracy in found) or "-"


def _options() -> argparse.Namespace:
    parser = benchmark_parser("What privacy costs.")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    every = [None, *EPSILONS]
    parser.add_argument("--epsilons", nargs="+", type=_epsilon, default=every, help="none for no privacy")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    return parser.parse_args()


def _epsilon(text: str) -> float | None:
    return None if text == "none" else float(text)


if __name__ == "__main__":
    main()

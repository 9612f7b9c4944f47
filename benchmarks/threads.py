"""What more threads bring to a training step, and whether binding them to cores does harm.

    python -m benchmarks.threads --json threads.json

LeNet, batch 32, on stock graphs as a device runs them: one thread, two and four, free to run on any core and bound to
the cores of this process. All take turns in one process; a figure is the median over turns of the wall time of a few
steps, and ratios are those to one thread. A machine that others use at the same time shows little.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figures import benchmark_parser, publish
from benchmarks.step_sides import Subject
from benchmarks.zoo_subject import random_examples, zoo_subject
from edge_client.local_data import batches
from edge_client.processors import Processors
from edge_client.training.portable import PortableRuntime

BATCH, EXAMPLES, STEPS = 32, 64, 5
COUNTS = (2, 4)


def choices() -> dict[str, Processors]:
    """What is compared, by name; threads are bound to no more cores than there are."""
    cores = sorted(os.sched_getaffinity(0))
    found = {"1 thread": Processors()}
    for count in COUNTS:
        if count <= len(cores):
            found[f"{count} threads"] = Processors(count)
            found[f"{count} threads, bound"] = Processors(count, tuple(cores[:count]))
    return found


def work_of(subject: Subject, processors: Processors) -> Callable[[], float]:
    """Seconds of a few steps, by the clock on the wall."""
    runtime = PortableRuntime.open(subject.bundle, subject.manifest.layout, processors)
    examples = random_examples(subject.manifest, subject.words, EXAMPLES)

    def work() -> float:
        began = time.perf_counter()
        runtime.train(subject.parameters, batches(examples, BATCH, STEPS, np.random.default_rng(0)), 0.01)
        return time.perf_counter() - began

    return work


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("What more threads bring to a training step.")
    parser.add_argument("--turns", type=int, default=30, help="turns that all take (default: %(default)s)")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        subject = zoo_subject("lenet", BATCH, Path(folder) / "bundle")
        works = {name: work_of(subject, processors) for name, processors in choices().items()}
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(1 + options.turns):
            for name, work in works.items():
                seconds[name].append(work())
    medians = {name: median(taken[1:]) / STEPS for name, taken in seconds.items()}
    one = next(iter(medians.values()))
    rows = [
        {"threads": name, "ms a step": f"{value * 1e3:.1f}", "of one thread": f"{value / one:.2f}"}
        for name, value in medians.items()
    ]
    figures = {name: value / one for name, value in medians.items()}
    publish(f"LeNet 28 x 28, batch {BATCH}", rows, figures, options.json)


if __name__ == "__main__":
    main()

"""Where the devices of a virtual round are computed: in this process, in several, or on a Ray cluster.

Answers come back in the order of the tasks, and do not depend on where they were computed; so neither does the run.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from devices.emulation.in_memory_device import Graphs
from devices.emulation.virtual_device import Answer, Order, Task, Workbench
from devices.errors import SimulationError
from wire_protocol.bundle_manifest import MANIFEST_NAME, decode_manifest
from wire_protocol.examples import Examples, fit_examples

EngineName = Literal["processes", "ray"]
INPUTS, TARGETS = "x.npy", "y.npy"
CHUNKS_A_WORKER = 4
"""More share the work more evenly, and each takes the model along once."""


class Engine(AbstractContextManager["Engine"], Protocol):
    """Computes tasks; closed by leaving its context."""

    def run(self, order: Order, tasks: Sequence[Task]) -> list[Answer]:
        """The answers, in order."""
        ...


@dataclass(frozen=True)
class Material:
    """What a process needs to begin: a bundle's folder, and a folder with all examples as `x.npy` and `y.npy`."""

    bundle: Path
    examples: Path

    def write_examples(self, examples: Examples) -> None:
        """Put them there."""
        self.examples.mkdir(parents=True, exist_ok=True)
        np.save(self.examples / INPUTS, examples.x)
        np.save(self.examples / TARGETS, examples.y)

    def open(self) -> Workbench:
        """Open the graphs and map the examples, whose pages all processes of a machine share."""
        manifest = decode_manifest((self.bundle / MANIFEST_NAME).read_bytes())
        arrays = (np.load(self.examples / name, mmap_mode="r") for name in (INPUTS, TARGETS))
        examples = fit_examples(Examples(*arrays), manifest, str(self.examples))
        return Workbench(Graphs.open(self.bundle, manifest.layout), examples)


def open_engine(name: EngineName, material: Material, workers: int) -> Engine:
    """The engine of this name; raises `SimulationError` where it is not installed."""
    if name == "ray":
        from devices.emulation.ray_engine import RayEngine  # noqa: PLC0415 - Ray only where it is used

        return RayEngine(material, workers)
    return InProcess(material.open()) if workers == 1 else Processes(material, workers)


@dataclass(frozen=True)
class InProcess(Engine):
    """In this process, one after another."""

    bench: Workbench

    def __exit__(self, *_error: object) -> None:
        """Nothing to close."""

    def run(self, order: Order, tasks: Sequence[Task]) -> list[Answer]:
        """See `Engine`."""
        return [self.bench.answer(order, task) for task in tasks]


class Processes(Engine):
    """In processes of this machine, started afresh, so that they load no more than a device does."""

    def __init__(self, material: Material, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._workers = workers
        self._pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(material,))

    def __exit__(self, *_error: object) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)

    def run(self, order: Order, tasks: Sequence[Task]) -> list[Answer]:
        """See `Engine`."""
        chunks = chunked(tasks, self._workers)
        try:
            return list(chain.from_iterable(self._pool.map(_answer_all, repeat(order, len(chunks)), chunks)))
        except BrokenProcessPool as error:
            raise SimulationError("a worker process was ended from outside; was memory short?") from error


def chunked(tasks: Sequence[Task], workers: int) -> list[Sequence[Task]]:
    """Tasks in stretches, a few a worker."""
    size = max(1, -(-len(tasks) // (CHUNKS_A_WORKER * workers)))
    return [tasks[start : start + size] for start in range(0, len(tasks), size)]


_bench: Workbench | None = None
"""Of a process of `Processes`."""


def _begin(material: Material) -> None:
    """Ctrl-C is the parent's affair."""
    global _bench  # noqa: PLW0603 - how a pool's process keeps what its initializer made
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bench = material.open()


def _answer_all(order: Order, tasks: Sequence[Task]) -> list[Answer]:
    assert _bench is not None
    return [_bench.answer(order, task) for task in tasks]

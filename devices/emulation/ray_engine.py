"""Virtual devices on a Ray cluster (Moritz et al. 2018, "Ray: a distributed framework for emerging AI applications").

Needs `pip install -r requirements-ray.txt` here and the package fisherfleet on every node. Workers are actors; they get
bundle and examples through Ray's object store, once, so that nodes need no common disk. `RAY_ADDRESS` names a cluster;
without it Ray starts on this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from devices.emulation.engines import Engine, Material, chunked
from devices.emulation.virtual_device import Answer, Order, Task
from devices.errors import SimulationError

Files = dict[str, bytes]


class RayEngine(Engine):
    """`workers` actors."""

    def __init__(self, material: Material, workers: int) -> None:
        try:
            import ray  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise SimulationError("engine ray needs Ray: pip install -r requirements-ray.txt") from error
        self._ray: Any = ray
        ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
        files = ray.put({"bundle": _read(material.bundle), "examples": _read(material.examples)})
        actor = ray.remote(num_cpus=1)(_Worker)
        self._pool = [actor.remote(files) for _ in range(workers)]

    def __exit__(self, *_error: object) -> None:
        """Leave the cluster; its actors end."""
        self._ray.shutdown()

    def run(self, order: Order, tasks: Sequence[Task]) -> list[Answer]:
        """See `Engine`."""
        told = self._ray.put(order)
        chunks = chunked(tasks, len(self._pool))
        pending = [self._pool[at % len(self._pool)].answer_all.remote(told, chunk) for at, chunk in enumerate(chunks)]
        return list(chain.from_iterable(self._ray.get(pending)))


class _Worker:
    """An actor: a workbench in a folder of its own."""

    def __init__(self, files: dict[str, Files]) -> None:
        self._folder = TemporaryDirectory(prefix="fisherfleet-ray-")
        root = Path(self._folder.name)
        for part, contents in files.items():
            _write(root / part, contents)
        self._bench = Material(root / "bundle", root / "examples").open()

    def answer_all(self, order: Order, tasks: Sequence[Task]) -> list[Answer]:
        """The answers, in order."""
        return [self._bench.answer(order, task) for task in tasks]


def _read(folder: Path) -> Files:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

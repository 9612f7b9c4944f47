"""What a device's graphs run on: so many threads, on which cores, and whether a GPU is tried.

`threads = "auto"` is a thread for each of the fastest cores that this process may use. Where a machine has slower ones,
too, the threads are bound to the fast ones, as a step takes as long as its slowest thread; elsewhere the kernel
distributes them best. How fast cores are Linux says in /sys/devices/system/cpu (cpu_capacity, cpufreq, topology).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]

_CORES = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Processors:
    """`cores` are those that the threads are bound to, numbered from 0; none: they may run anywhere."""

    threads: int = 1
    cores: tuple[int, ...] = ()
    provider: Provider = "cpu"

    @property
    def on_cpu(self) -> Processors:
        """The same without a GPU."""
        return Processors(self.threads, self.cores)


ONE_THREAD = Processors()


def choose_processors(threads: int | Literal["auto"], provider: Provider) -> Processors:
    """What the owner's words come to on this machine."""
    if threads != "auto":
        return Processors(threads, (), provider)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    fast, slower = fastest_cores(_CORES, usable)
    return Processors(len(fast), fast if slower else (), provider)


def fastest_cores(folder: Path, usable: Collection[int]) -> tuple[tuple[int, ...], bool]:
    """Of the usable processors the fastest, one of each core; and whether there are slower ones."""
    first = {number: _first_of_core(folder / f"cpu{number}", number) for number in usable}
    cores = sorted(number for number in usable if first[number] == number or first[number] not in usable)
    speeds = {number: _speed(folder / f"cpu{number}") for number in cores}
    best = max(speeds.values())
    fast = tuple(number for number in cores if speeds[number] == best)
    return fast, len(fast) < len(cores)


def _first_of_core(folder: Path, number: int) -> int:
    """The first of the logical processors that one core has."""
    siblings = _text(folder / "topology" / "thread_siblings_list").replace("-", ",").split(",")
    return int(siblings[0]) if siblings[0].isdigit() else number


def _speed(folder: Path) -> int:
    """The kernel's own measure of a core, else its highest clock; 0 where neither is known."""
    known = (_text(folder / name) for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"))
    return next((int(text) for text in known if text.isdigit()), 0)


def _text(path: Path) -> str:
    """What a file of the kernel says, "" where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""

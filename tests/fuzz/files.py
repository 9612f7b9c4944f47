"""What targets of local files share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from tests.fuzz.mutations import Mutate
from tests.fuzz.seeds import scratch
from tests.fuzz.target import MOST_MEMORY, Target

MEGABYTE = 2**20


def file_of(name: str, content: bytes, mode: int = 0o600) -> Path:
    path = scratch() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def empty_folder(name: str) -> Path:
    folder = scratch() / name
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    return folder


def target_of(
    name: str,
    covers: Sequence[str],
    files: Callable[[], Sequence[bytes]],
    mutate: Mutate,
    run: Callable[[bytes], object],
    refusal: type[Exception] | None,
    *,
    limit: int = 64 * 1024,
    cost: int = 8,
    times: int = MOST_MEMORY,
) -> Target:
    refusals = () if refusal is None else (refusal,)
    return Target(name, tuple(covers), cache(files), mutate, run, refusals, limit, cost, times)

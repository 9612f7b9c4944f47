"""One thing to fuzz, and what it must keep to."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.fuzz.mutations import Mutate

SMALLEST_LIMIT = 64 * 1024
"""Below it the interpreter's own objects outweigh the input."""
MOST_MEMORY = 4
"""Times the limit, for what comes over the wire."""


@dataclass(frozen=True)
class Target:
    """`run` takes any bytes and returns, or raises one of `refusals`; `limit` is the longest input it is given in life.

    Memory beyond the input stays below `times` x `limit`: JSON documents of a trusted hand are allowed more. `covers`
    names the functions it stands for. `cost` is how much slower it is than a message (it gets fewer turns).
    """

    name: str
    covers: tuple[str, ...]
    seeds: Callable[[], Sequence[bytes]]
    mutate: Mutate
    run: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    limit: int = SMALLEST_LIMIT
    cost: int = 1
    times: int = MOST_MEMORY

    @property
    def most_memory(self) -> int:
        """Bytes that one call may take."""
        return self.times * max(self.limit, SMALLEST_LIMIT)

    def mutant(self, draw: Random) -> bytes:
        """One more document that is not quite right."""
        return self.mutate(draw, self.seeds(), self.limit)


class BrokenPromiseError(AssertionError):
    """A decoder raised what it must not, or took too much memory."""


@dataclass
class Tally:
    """What came of a target's mutants: how many there were and were taken, and the most memory one of them needed."""

    mutants: int = 0
    taken: int = 0
    memory: int = 0


def check_batch(target: Target, draw: Random, count: int, tally: Tally) -> None:
    """Draw so many mutants and check each; raises `BrokenPromiseError`. Memory is traced while decoders work only."""
    mutants = [target.mutant(draw) for _ in range(count)]
    tracemalloc.start()
    try:
        for content in mutants:
            taken, memory = check(target, content)
            tally.mutants += 1
            tally.taken += taken
            tally.memory = max(tally.memory, memory)
    finally:
        tracemalloc.stop()


def check(target: Target, content: bytes, *, again: bool = False) -> tuple[bool, int]:
    """Whether the decoder took the content, and the memory that tracemalloc saw; raises `BrokenPromiseError`."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    taken = True
    try:
        target.run(content)
    except target.refusals:
        taken = False
    except Exception as error:
        raise BrokenPromiseError(
            f"{target.name} raised {error!r:.500} for {content[:300]!r} ({len(content)})"
        ) from error
    used = tracemalloc.get_traced_memory()[1] - before
    most = target.most_memory
    if used > most and not again:  # the interpreter's own tables grow now and then, a decoder's needs return
        return check(target, content, again=True)
    if used > most:
        raise BrokenPromiseError(f"{target.name} took {used} bytes, of {most}, for {content[:300]!r} ({len(content)})")
    return taken, used

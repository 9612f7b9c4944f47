"""A million mutated messages and files against every decoder: what broke its promise, and how much memory was needed.

    python -m benchmarks.fuzz_soak --messages 1000000 --seed 1

Costly targets get fewer turns. Exit status 1 when a decoder raised what it must not or took too much memory; each
finding is printed with the seed that repeats it.
"""

from __future__ import annotations

import logging
import random
import sys
import time
import warnings

from benchmarks.figures import benchmark_parser, publish
from tests.fuzz.target import BrokenPromiseError, Tally, Target, check_batch
from tests.fuzz.targets import TARGETS

BATCH = 100


def soak(target: Target, count: int, seed: int) -> tuple[Tally, list[str]]:
    """Check so many mutants of a target; a finding ends its batch of a hundred."""
    tally, findings = Tally(), []
    for batch in range(0, count, BATCH):
        name = f"{seed}/{target.name}/{batch}"
        try:
            check_batch(target, random.Random(name), min(BATCH, count - batch), tally)
        except BrokenPromiseError as error:
            findings.append(f"seed {name}: {error}")
    return tally, findings


def shares(messages: int) -> dict[str, int]:
    """How many of so many mutants each target gets: as many as its cost allows."""
    whole = sum(1 / target.cost for target in TARGETS)
    return {target.name: max(BATCH, round(messages / target.cost / whole)) for target in TARGETS}


def main() -> int:
    """Soak, print, and say whether all promises were kept."""
    parser = benchmark_parser("Mutated messages and files against every decoder.")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    logging.disable(logging.CRITICAL)
    began, rows, found, total = time.perf_counter(), [], [], 0
    counts = shares(arguments.messages)
    for target in TARGETS:
        tally, findings = soak(target, counts[target.name], arguments.seed)
        found += findings
        total += tally.mutants
        rows.append(
            {
                "decoder": target.name,
                "mutants": str(tally.mutants),
                "valid": str(tally.taken),
                "most memory, KB": f"{tally.memory / 1000:.0f}",
                "allowed, KB": f"{target.most_memory / 1000:.0f}",
                "broken": str(len(findings)),
            }
        )
    seconds = time.perf_counter() - began
    figures = {"mutants": total, "broken": len(found), "seconds": seconds, "rows": rows}
    publish(f"{total} mutants in {seconds:.0f} s, {len(found)} broken promises", rows, figures, arguments.json)
    for finding in found[:50]:
        print(finding)  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""Whom the screening of outliers leaves out, honest and bad, by fleet: digits, a run's defaults, three seeds.

    python -m benchmarks.outlier_rules --json outlier_rules.json

Fleets of 6 to 50 devices with data of Dirichlet 0.1, 0.5 and as good as equal (100); a fifth of them is bad: it flips
its labels (9 - y) or the sign of what it sends, or sends it multiplied by 10. `left out` are shares of all updates,
`held` shares of all devices that the quarantine's default rule would hold, though here they go on.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import benchmark_parser, publish
from benchmarks.in_memory_fleet import Method, ServerSide, accuracies
from benchmarks.poisoning import attacked, is_bad, make_bed
from model_export.zoo.mlp import HIDDEN
from server.config import RunConfig
from server.quarantine import QuarantineRule

SIZES, ALPHAS = (6, 8, 20, 50), (0.1, 0.5, 100.0)
ATTACKS = ("none", "labels flipped", "sign flipped", "times 10")
DEFAULTS = RunConfig()
METHOD = Method(
    rounds=DEFAULTS.rounds,
    keep=DEFAULTS.keep,
    selection=DEFAULTS.selection,
    resync_every=DEFAULTS.resync_every,
    local_steps=DEFAULTS.local_steps,
    batch_size=DEFAULTS.batch_size,
    learning_rate=DEFAULTS.learning_rate,
    rate_decay=DEFAULTS.rate_decay,
    rate_warmup=DEFAULTS.rate_warmup,
    initial_scale=DEFAULTS.initial_scale,
    training=DEFAULTS.training,
    precision=DEFAULTS.precision,
    top_k=DEFAULTS.top_k,
    downlink=DEFAULTS.downlink,
    difference=None if DEFAULTS.difference == "off" else DEFAULTS.difference,
    score_examples=DEFAULTS.score_examples,
)
HOLDS = QuarantineRule()


@dataclass(frozen=True)
class Case:
    """A fleet and what a fifth of it does."""

    devices: int
    alpha: float
    attack: str


@dataclass(frozen=True)
class Tally:
    """Of the honest or the bad devices of some runs: updates and devices, and how many were left out and held."""

    updates: int = 0
    left_out: int = 0
    devices: int = 0
    held: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def shares(self) -> dict[str, float | None]:
        """In percent."""
        if not self.devices:
            return {"left_out": None, "held": None}
        return {"left_out": 100 * self.left_out / self.updates, "held": 100 * self.held / self.devices}


def run(case: Case, seed: int) -> tuple[Tally, Tally, float]:
    """The honest, the bad, and the accuracy after the last round."""
    with TemporaryDirectory() as folder:
        bed = make_bed(Path(folder), METHOD, case.alpha, seed, case.devices, HIDDEN)
        fleet = attacked(bed.fleet, case.attack)
        rounds = list(accuracies(fleet, METHOD, ServerSide(outliers="leave-out")))
        accuracy = rounds[-1].accuracy
    tallies = [Tally(), Tally()]
    for device in range(case.devices):
        faults = [device in done.left_out for done in rounds]
        bad = case.attack != "none" and is_bad(device, case.devices)
        tallies[bad] += Tally(len(faults), sum(faults), 1, _is_held(faults))
    return tallies[0], tallies[1], accuracy


def _is_held(faults: Sequence[bool]) -> bool:
    last: deque[bool] = deque(maxlen=HOLDS.rounds)
    for fault in faults:
        last.append(fault)
        if sum(last) >= HOLDS.faults:
            return True
    return False


def figures_of(case: Case, seeds: int) -> dict[str, object]:
    """What `publish` writes of a case."""
    honest, bad, accuracy = Tally(), Tally(), 0.0
    for seed in range(seeds):
        more, worse, reached = run(case, seed)
        honest, bad, accuracy = honest + more, bad + worse, accuracy + 100 * reached / seeds
    sys.stderr.write(f"{case}: honest {honest}, bad {bad}\n")
    return {**vars(case), "honest": honest.shares(), "bad": bad.shares(), "accuracy": accuracy}


def row_of(figures: dict[str, object]) -> dict[str, str]:
    """What `publish` prints of a case."""
    row = {"devices": str(figures["devices"]), "Dirichlet": f"{figures['alpha']:g}", "attack": str(figures["attack"])}
    for who in ("honest", "bad"):
        shares = figures[who]
        assert isinstance(shares, dict)
        row |= {f"{who} {name.replace('_', ' ')}": _percent(value) for name, value in shares.items()}
    return row | {"accuracy": f"{figures['accuracy']:.1f}"}


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1f} %"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Whom the screening of outliers leaves out.")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(argv)
    cases = [Case(*one) for one in product(SIZES, ALPHAS, ATTACKS)]
    figures = [figures_of(case, options.seeds) for case in cases]
    title = f"Outliers left out, {options.seeds} seeds"
    publish(title, [row_of(one) for one in figures], {"seeds": options.seeds, "rows": figures}, options.json)


if __name__ == "__main__":
    main()

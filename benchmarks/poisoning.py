"""Poisoned updates against rules of aggregation, with outliers kept and left out: digits, 20 devices, 4 of them bad.

    python -m benchmarks.poisoning --json poisoning.json

The attacks are on data (labels flipped, 9 - y) and on what is sent (the sign flipped; multiplied by 100). A bad device
trains as the others do otherwise. The accuracy is the mean of the last five rounds, on digits that no device has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import get_args

import msgspec
import numpy as np
import torch

from benchmarks.figures import benchmark_parser, publish
from benchmarks.in_memory_fleet import Fleet, Method, ServerSide, accuracies
from devices.emulation.datasets import load_dataset
from devices.emulation.splits import dirichlet_split
from model_export.export import export_bundle
from model_export.zoo.mlp import mlp
from server.aggregation.choice import AggregationConfig, aggregation_rule
from server.config import Outliers
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.messages import Update
from wire_protocol.sub_model import SubModel, sub_shapes
from wire_protocol.tensor_codec import decode, encode

DEVICES = 20
HIDDEN = (64, 32)
EVERY = 5
"""One device in so many is bad."""
LAST_ROUNDS = 5
ATTACKS: Mapping[str, float] = {"none": 1.0, "labels flipped": 1.0, "sign flipped": -1.0, "times 100": 100.0}
"""What a bad device multiplies its update by; `attacked` takes others by `times N`, too."""
RULES: Mapping[str, AggregationConfig] = {
    "mean": AggregationConfig(),
    "trimmed mean, 0.2": AggregationConfig("trimmed-mean", trim=0.2),
    "median": AggregationConfig("median"),
    "mean, norm bound 1": AggregationConfig(norm_bound=1.0),
}


@dataclass(frozen=True)
class Bed:
    """An honest fleet, and how it trains."""

    fleet: Fleet
    method: Method

    def accuracy(self, attack: str, rule: AggregationConfig, outliers: Outliers) -> float:
        """Percent, the mean of the last rounds."""
        server = ServerSide(lambda layout: aggregation_rule(rule, layout), outliers=outliers)
        rounds = list(accuracies(attacked(self.fleet, attack), self.method, server))
        return 100 * mean(done.accuracy for done in rounds[-LAST_ROUNDS:])


def attacked(fleet: Fleet, attack: str) -> Fleet:
    """The fleet with a fifth that does this, by its name in `ATTACKS` or as `times N`."""
    devices = len(fleet.shares)
    if attack == "labels flipped":
        shares = [_flipped(one) if is_bad(device, devices) else one for device, one in enumerate(fleet.shares)]
        return replace(fleet, shares=shares)
    factor = ATTACKS[attack] if attack in ATTACKS else float(attack.removeprefix("times "))
    return replace(fleet, sends=Multiplied(fleet.manifest.layout, devices, factor))


def make_bed(
    bundle: Path, method: Method, alpha: float, seed: int, devices: int = DEVICES, hidden: Sequence[int] = HIDDEN
) -> Bed:
    """Digits dealt out by a Dirichlet split of this alpha; the bundle is written into a folder."""
    dataset = load_dataset("digits", None, seed)
    split = dirichlet_split(dataset.train.y, devices, alpha=alpha, seed=seed)
    torch.manual_seed(seed)
    manifest = export_bundle(mlp(dataset.input_shape, dataset.classes, hidden), dataset.input_shape, bundle, name="mlp")
    return Bed(Fleet(bundle, manifest, [dataset.train.take(one) for one in split], dataset.test, seed), method)


def is_bad(device: int, devices: int) -> bool:
    """Whether this device of so many does harm."""
    return device % EVERY == 0 and device // EVERY < devices // EVERY


def _flipped(share: Examples) -> Examples:
    return Examples(share.x, 9 - share.y)


@dataclass(frozen=True)
class Multiplied:
    """What bad devices send: their update's values times `factor`."""

    layout: Layout
    devices: int
    factor: float

    def __call__(self, device: int, update: Update, sub_model: SubModel) -> Update:
        """See `Sends`."""
        if self.factor == 1 or not is_bad(device, self.devices):
            return update
        shapes = sub_shapes(self.layout, sub_model.widths)
        values = decode(update.values, shapes, update.codec)
        multiplied = {name: array * np.float32(self.factor) for name, array in values.items()}
        return msgspec.structs.replace(update, values=encode(multiplied, shapes, update.codec))


def table(bed: Bed) -> list[dict[str, str]]:
    """A row for each rule, with outliers kept and left out; a column for each attack."""
    rows = []
    for outliers in get_args(Outliers)[::-1]:
        for name, rule in RULES.items():
            row = {"rule": name, "outliers": "kept" if outliers == "keep" else "left out"}
            rows.append(row | {attack: f"{bed.accuracy(attack, rule, outliers):.1f}" for attack in ATTACKS})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Poisoned updates against rules of aggregation and the screening of outliers.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--alpha", type=float, default=0.5, help="of the Dirichlet split")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    method = Method(options.rounds, options.keep, local_steps=10, batch_size=16, learning_rate=0.15)
    with TemporaryDirectory() as folder:
        rows = table(make_bed(Path(folder), method, options.alpha, options.seed))
    title = f"Digits, {DEVICES} devices, {DEVICES // EVERY} of them bad, Dirichlet {options.alpha:g}, accuracy %"
    publish(title, rows, {"settings": {**vars(options), "json": None}, "rows": rows}, options.json)


if __name__ == "__main__":
    main()

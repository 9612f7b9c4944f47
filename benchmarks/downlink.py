"""What goes down to devices, and what it costs in accuracy: precisions of slices, and of whole models as differences.

    python -m benchmarks.downlink --json downlink.json

A fleet with a LeNet on Fashion-MNIST, as in `benchmarks.codec`, that sends float16 updates; of one seed. Bytes are of
values, a device and round, the first round's whole model included; dense float32 models would be sent every round.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, get_args

from benchmarks.codec import fleet_of
from benchmarks.figures import benchmark_parser, publish
from benchmarks.in_memory_fleet import Fleet, Method, accuracies
from benchmarks.method_cases import LAST_ROUNDS
from wire_protocol.model_difference import DifferencePrecision
from wire_protocol.sub_model import element_count
from wire_protocol.tensor_codec import DownlinkPrecision


def methods(base: Method, resyncs: Iterable[int], downlinks: Iterable[DownlinkPrecision]) -> list[Method]:
    """Every resync interval, precision of slices and precision of differences; first of all the dense model."""
    dense = replace(base, keep=1.0, selection="full", resync_every=1, downlink="float32")
    differences: tuple[DifferencePrecision | None, ...] = (None, *get_args(DifferencePrecision))
    return [dense] + [
        replace(base, resync_every=resync, downlink=downlink, difference=difference)
        for resync, downlink, difference in product(resyncs, downlinks, differences)
    ]


def train(fleet: Fleet, method: Method) -> dict[str, Any]:
    """How a method did."""
    rounds = list(accuracies(fleet, method))
    layout, devices = fleet.manifest.layout, len(fleet.shares)
    sent = mean(done.bytes_down for done in rounds) / devices
    return {
        "selection": method.selection,
        "resync_every": method.resync_every,
        "downlink": method.downlink,
        "difference": method.difference or "off",
        "accuracy": mean(done.accuracy for done in rounds[-LAST_ROUNDS:]),
        "bytes_down": sent,
        "resync_bytes": rounds[-1 - (method.rounds - 1) % method.resync_every].bytes_down / devices,
        "times_fewer": 4 * element_count(layout, layout.group_sizes) / sent,
    }


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("What goes down to devices, and what it costs in accuracy.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--resync-every", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--downlinks", nargs="+", default=["float16", "int8", "int4"])
    parser.add_argument("--examples", type=int, default=12_000, help="training examples of the whole fleet")
    options = parser.parse_args()
    base = Method(options.rounds, options.keep, local_steps=20, learning_rate=options.learning_rate)
    with TemporaryDirectory() as folder:
        fleet = fleet_of(options, options.seed, Path(folder))
        results = []
        for method in methods(base, options.resync_every, options.downlinks):
            results.append(train(fleet, method))
            sys.stderr.write(f"{results[-1]}\n")
    title = f"Fashion-MNIST, {options.devices} devices, keep {options.keep}, {options.rounds} rounds"
    publish(
        title,
        [_row(one) for one in results],
        {"settings": {**vars(options), "json": None}, "results": results},
        options.json,
    )


def _row(one: Mapping[str, Any]) -> dict[str, str]:
    return {
        "selection": one["selection"],
        "resync every": str(one["resync_every"]),
        "slices": one["downlink"],
        "difference": one["difference"],
        "accuracy %": f"{100 * one['accuracy']:.1f}",
        "bytes down": f"{one['bytes_down']:,.0f}",
        "last resync": f"{one['resync_bytes']:,.0f}",
        "fewer": f"{one['times_fewer']:.1f} x",
    }


if __name__ == "__main__":
    main()

"""Who is heard by a deadline of 60 s in a fleet of very unequal devices: fitted sub-models against full models.

    python -m benchmarks.unequal_fleet --json unequal_fleet.json

Equal shares of Raspberry Pi Zero 2 W, Pi 4, Pi 5 and Jetson Orin Nano on links of 250 kbit/s to 20 Mbit/s, the same
both ways, drawn log-uniformly; `fisherfleet simulate` with real training on Fashion-MNIST. The model is a LeNet with
32-64-1024-128 neurons: 1.82 million parameters, 7.3 MB as float32; a round has 40 steps of 32 examples. So a full
model's steps take a Zero 2 W 58 s and a Pi 4 15 s, and its float32 values need 58 s each way at 1 Mbit/s.

`fisher` fits sub-models by Fisher score to each device's processor, memory, link and the deadline; models go down as
int4, updates come up as int8. `full, float32` is plain federated averaging, `full, coded` has the codecs of `fisher`.
Speeds of boards are in `devices/profiles`, partly estimates; time is computed, see docs/design.md. The bars: at least
95 % of turns heard with `fisher`, less than half with `full, float32`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from benchmarks.figures import benchmark_parser, publish
from devices.emulation.report import Report, Simulation, unheard
from devices.emulation.settings import SimulationSettings
from devices.emulation.simulate import prepare, simulate
from devices.emulation.virtual_fleet import LinkRange
from model_export.zoo.lenet import lenet

MIX = dict.fromkeys(("raspberry-pi-zero-2w", "raspberry-pi-4", "raspberry-pi-5", "jetson-orin-nano"), 0.25)
LINK = LinkRange(250e3, 20e6)
DEADLINE, STEPS, BATCH = 60.0, 40, 32
WIDTHS = (32, 64, 1024, 128)
METHODS: dict[str, dict[str, Any]] = {
    "fisher": {"selection": "fisher", "fit": True, "precision": "int8", "downlink": "int4"},
    "full, float32": {"selection": "full", "fit": False, "precision": "float32", "downlink": "float32"},
    "full, coded": {"selection": "full", "fit": False, "precision": "int8", "downlink": "int4"},
}


def wide_lenet() -> nn.Module:
    """The model of all methods, with the same initial weights."""
    torch.manual_seed(0)
    return lenet((1, 28, 28), 10, WIDTHS)


@dataclass(frozen=True)
class Size:
    """How much to simulate."""

    devices: int
    rounds: int
    examples: int
    seed: int
    workers: int


def run(method: Mapping[str, Any], size: Size) -> Report:
    """The report of one method."""
    with TemporaryDirectory() as folder:
        settings = SimulationSettings(
            out=Path(folder),
            devices=size.devices,
            rounds=size.rounds,
            examples=size.examples,
            seed=size.seed,
            workers=size.workers,
            dataset="fashion-mnist",
            model="benchmarks.unequal_fleet:wide_lenet",
            mix=MIX,
            link=LINK,
            round_seconds=DEADLINE,
            local_steps=STEPS,
            batch_size=BATCH,
            learning_rate=0.05,
            **method,
        )
        finished = simulate(prepare(settings), lambda closed, _: sys.stderr.write(f"round {closed.record.round}\n"))
    return finished.report


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Who is heard by a deadline in a fleet of very unequal devices.")
    parser.add_argument("--devices", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=60, help="a device draws")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    size = Size(options.devices, options.rounds, options.examples, options.seed, options.workers)
    rows, figures = [], {}
    for name in options.methods:
        report = run(METHODS[name], size)
        rows += _rows(name, report)
        figures[name] = _figures(report)
    title = f"{size.devices} devices, {size.rounds} rounds, deadline {DEADLINE:g} s, 250 kbit/s to 20 Mbit/s"
    publish(title, rows, {"settings": {**vars(options), "json": None}, "methods": figures}, options.json)


def _rows(name: str, report: Report) -> list[dict[str, str]]:
    simulation = report.simulation
    assert isinstance(simulation, Simulation)
    rows = [_row(name, "all", simulation.heard, _words(report), "")]
    for kind in simulation.kinds:
        heard = kind.fates["heard"] / kind.turns if kind.turns else 0.0
        kept = "-" if kind.kept is None else f"{100 * kind.kept:.0f} %, least {100 * (kind.least_kept or 0):.1f} %"
        rows.append(_row("", kind.profile, heard, kept, unheard(kind.fates)))
    return rows


def _row(method: str, devices: str, heard: float, kept: str, why: str) -> dict[str, str]:
    return {"method": method, "devices": devices, "heard": f"{100 * heard:.1f} %", "parameters kept": kept, "not": why}


def _words(report: Report) -> str:
    accuracy = "-" if report.final.accuracy is None else f"accuracy {100 * report.final.accuracy:.1f} %"
    return f"{accuracy}, {report.totals.bytes_up / 1e6:.1f} MB up, {report.totals.bytes_down / 1e6:.1f} MB down"


def _figures(report: Report) -> dict[str, Any]:
    simulation = report.simulation
    assert isinstance(simulation, Simulation)
    return {
        "heard": simulation.heard,
        "accuracy": report.final.accuracy,
        "bytes_up": report.totals.bytes_up,
        "bytes_down": report.totals.bytes_down,
        "joules": simulation.joules,
        "fleet_seconds": simulation.seconds,
        "kinds": {kind.profile: {"fates": kind.fates, "kept": kind.kept} for kind in simulation.kinds},
    }


if __name__ == "__main__":
    main()

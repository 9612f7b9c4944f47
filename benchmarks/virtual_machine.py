"""How far the time that a virtual device takes is from what training takes here.

    python -m benchmarks.virtual_machine --json virtual_machine.json

For each model its steps are measured at several widths as a device calibrates, in seconds of the processor, and
compared with a virtual machine whose speed is the one that fits all of them best (the geometric mean of the ratios is
1). So what is judged is the shape of `devices/emulation/virtual_machine.py`, and not how fast this machine is.
"""

from __future__ import annotations

import time
from math import exp, log
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from benchmarks.figures import benchmark_parser, publish
from benchmarks.planner import plan_of
from benchmarks.zoo_subject import random_examples, zoo_subject
from devices.emulation.virtual_machine import VirtualMachine
from edge_client.calibration import Probe, measure_training
from edge_client.local_update import LocalWork
from edge_client.machine_sensors import Sensors
from edge_client.training.portable import PortableRuntime

SPEED = 1e10
EXAMPLES = 64


def steps_of(name: str, batch: int, folder: Path) -> list[dict[str, Any]]:
    """Measured seconds of a step at each width, and those of a machine of `SPEED`."""
    made = zoo_subject(name, batch, folder / "bundle")
    layout, sensors = made.manifest.layout, Sensors(seconds=time.process_time)
    plan = msgspec.structs.replace(plan_of(name, 1), batch_size=batch)
    examples = random_examples(made.manifest, made.words, EXAMPLES)
    work = LocalWork(plan, layout, examples, np.random.default_rng(0))
    probe = Probe(sensors.seconds, sensors.peak_memory_mb)
    measured = measure_training(work, PortableRuntime.open(made.bundle, layout), probe)
    modelled = VirtualMachine(SPEED, batch).calibration(layout).points
    pairs = zip(measured, modelled, strict=True)
    return [
        {"model": name, "widths": one.widths, "measured": one.step_seconds, "modelled": other.step_seconds}
        for one, other in pairs
    ]


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Modelled against measured seconds of training steps.")
    parser.add_argument("--models", default="lenet,ds_cnn,resnet8,mobilenet", help="of the zoo, separated by commas")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    steps: list[dict[str, Any]] = []
    for name in options.models.split(","):
        with TemporaryDirectory() as folder:
            steps += steps_of(name, options.batch, Path(folder))
    scale = exp(mean(log(step["measured"] / step["modelled"]) for step in steps))
    for step in steps:
        step["ratio"] = scale * step["modelled"] / step["measured"]
    speed = SPEED / scale
    rows = [_row(step, scale) for step in steps]
    title = f"Steps of {options.batch} examples; this machine is as one of {speed / 1e9:.0f} GMAC/s"
    publish(title, rows, {"speed": speed, "steps": steps}, options.json)


def _row(step: dict[str, Any], scale: float) -> dict[str, str]:
    return {
        "model": step["model"],
        "widths": "-".join(str(width) for width in step["widths"].values()),
        "measured ms": f"{1000 * step['measured']:.2f}",
        "modelled ms": f"{1000 * scale * step['modelled']:.2f}",
        "modelled / measured": f"{step['ratio']:.2f}",
    }


if __name__ == "__main__":
    main()

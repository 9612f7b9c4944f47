"""A real fleet of one device that trains LeNet, to measure the device. Nothing runs until it is started."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.faults.party import INPUT_SHAPE, Party, Plot, fisherfleet

EXAMPLES, BATCH = 64, 32


def fleet_of_one(folder: Path, rounds: int, steps: int, keep: float = 1.0) -> Party:
    """Make it in `folder`: rounds of so many local steps, on random examples."""
    fisherfleet("export", "lenet", "--input", ",".join(map(str, INPUT_SHAPE)), "--out", folder / "bundle")
    training = {"keep": keep, "batch-size": BATCH, "local-steps": steps}
    options = tuple(text for name, value in training.items() for text in (f"--{name}", str(value)))
    made = Party(folder, folder / "bundle", Plot(devices=1, groups=1, rounds=rounds, serve=options))
    made.provision()
    generator = np.random.default_rng(0)
    x = generator.standard_normal((EXAMPLES, *INPUT_SHAPE)).astype(np.float32)
    np.savez(device_folder(made) / "data.npz", x=x, y=generator.integers(0, 10, EXAMPLES))
    return made


def device_folder(made: Party) -> Path:
    """Where the device's configuration is."""
    (folder,) = (made.folder / "group-0").iterdir()
    return folder

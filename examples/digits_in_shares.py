"""Deal scikit-learn's digits out to devices: what docs/deploy.md trains on, in place of data that devices would have.

    python examples/digits_in_shares.py shares kitchen garden cellar

writes shares/NAME.npz for each device, and shares/test.npz, whose examples no device has.
"""

import sys
from pathlib import Path

import numpy as np

from devices.emulation.datasets import load_dataset
from devices.emulation.splits import dirichlet_split


def main(folder: Path, *devices: str) -> None:
    """Write the files: arrays x (examples, 1, 8, 8) in [0, 1] and y (examples,), the classes from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_dataset("digits", None, seed=0)
    np.savez(folder / "test.npz", x=digits.test.x, y=digits.test.y)
    for device, indices in zip(devices, dirichlet_split(digits.train.y, len(devices), alpha=10, seed=0), strict=True):
        share = digits.train.take(indices)
        np.savez(folder / f"{device}.npz", x=share.x, y=share.y)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

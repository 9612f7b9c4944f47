"""Make what two devices and a server need to train on scikit-learn's digits by hand: see README, "Your own broker".

    python examples/digits_for_two_devices.py my-fleet

writes my-fleet/test.npz for the server, and for each device a folder with its data.npz and its device.toml.
"""

import sys
from pathlib import Path

import numpy as np

from devices.emulation.datasets import load_dataset
from devices.emulation.device_folders import Surroundings, write_device_folder
from devices.emulation.splits import dirichlet_split
from wire_protocol.broker_url import parse_broker_url


def main(folder: Path, broker: str = "mqtt://127.0.0.1:1883", server: str = "http://127.0.0.1:8765") -> None:
    """Write the folders."""
    digits = load_dataset("digits", None, seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "test.npz", x=digits.test.x, y=digits.test.y)
    surroundings = Surroundings(parse_broker_url(broker), server, runtime="auto", run=None)
    for number, indices in enumerate(dirichlet_split(digits.train.y, 2, alpha=0.5, seed=0), start=1):
        write_device_folder(folder, number, digits.train.take(indices), surroundings, seed=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

"""Make what two devices and a server need to train on scikit-learn's digits by hand: see README, "Your own broker".

    python examples/digits_for_two_devices.py my-fleet [BROKER_URL [SERVER_URL]]

takes the fleet's folder my-fleet, or makes it, and adds device-001 and device-002 unless they are there. It writes
my-fleet/test.npz for the server, and each device's data.npz and device.toml into its folder in my-fleet/devices.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from devices.emulation.datasets import load_dataset
from devices.emulation.device_folders import Surroundings, device_name, write_device_folder
from devices.emulation.splits import dirichlet_split
from devices.provisioning import enrolment
from server.fleet.fleet_folder import create_fleet
from wire_protocol.broker_url import parse_broker_url
from wire_protocol.identity import load_fleet

DEVICES = 2


def main(folder: Path, broker: str = "mqtt://127.0.0.1:1883", server: str = "http://127.0.0.1:8765") -> None:
    """Write the folders."""
    now = datetime.now(UTC)
    there = folder / "fleet.json"
    fleet = create_fleet(folder, load_fleet(there).name if there.exists() else "digits", (), now)
    names = [device_name(number) for number in range(1, DEVICES + 1)]
    enrolment.add_devices(fleet, names, enrolment.Surroundings(broker, server), now)
    digits = load_dataset("digits", None, seed=0)
    np.savez(folder / "test.npz", x=digits.test.x, y=digits.test.y)
    surroundings = Surroundings(parse_broker_url(broker), server, runtime="auto", run=None)
    for number, indices in enumerate(dirichlet_split(digits.train.y, DEVICES, alpha=0.5, seed=0), start=1):
        write_device_folder(fleet.devices, number, digits.train.take(indices), surroundings, seed=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

"""What `fisherfleet devices provision` tells the operator: what was made, what stays as it was, what to run next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from devices.provisioning.device_list import WantedDevice


def provisioned(wanted: Sequence[WantedDevice], new: Sequence[str], out: Path, configuration: Path) -> str:
    """After folders were made in `out`, of which `new` were not there before.

    `configuration` is the file, of the device NAME, in which the operator may change what a device is told.
    """
    lines = []
    if new:
        lines.append(f"{len(new)} new in {out}: {f'{new[0]} to {new[-1]}' if len(new) > 1 else new[0]}.")
    if there := len(wanted) - len(new):
        lines.append(
            f"{there} there already: they keep their keys, or token, and configuration, whatever is asked for now; "
            f"change it in {configuration}."
        )
    example = new[0] if new else wanted[0].name
    lines += [
        "Each folder has the device's secrets: once its board is flashed and works, it may be deleted here.",
        f"Next, for each: fisherfleet devices flash first-boot {out / example} --boot BOOT_PARTITION --system trixie",
        "(others: fisherfleet devices flash --help)",
    ]
    return "\n".join(lines)

"""What `fisherfleet devices provision` tells the operator: what was made, what stays as it was, what to run next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from devices.provisioning.device_list import WantedDevice
from wire_protocol.broker_url import parse_broker_url

_RASPBERRY_PI = "raspberry-pi-"


@dataclass(frozen=True)
class Told:
    """URLs that new devices are told: of the server, and of the broker, None where the server says it.

    `assumed`: nobody gave the broker's, so it is the fleet's own host. `configuration` is the file, of the device NAME,
    in which the operator may change what a device is told.
    """

    server: str
    broker: str | None
    assumed: bool
    configuration: Path


def provisioned(wanted: Sequence[WantedDevice], new: Sequence[str], out: Path, told: Told) -> str:
    """After folders were made in `out`, of which `new` were not there before."""
    lines = []
    if new:
        lines.append(f"{len(new)} new in {out}: {f'{new[0]} to {new[-1]}' if len(new) > 1 else new[0]}.")
        lines += _addresses(told)
    if there := len(wanted) - len(new):
        lines.append(
            f"{there} there already: they keep their keys, or token, and configuration, whatever is asked for now; "
            f"change it in {told.configuration}."
        )
    lines.append("Each folder has the device's secrets: once its board is flashed and works, it may be deleted here.")
    fresh = set(new)
    lines += _next([device for device in wanted if device.name in fresh] or wanted, out)
    lines.append("(others: fisherfleet devices flash --help)")
    return "\n".join(lines)


def _next(devices: Sequence[WantedDevice], out: Path) -> Iterator[str]:
    """A way of flashing for each kind of device, with the first of the kind as example."""
    examples: dict[str, WantedDevice] = {}
    for device in devices:
        examples.setdefault(device.profile.id, device)
    for device in examples.values():
        profile, folder = device.profile, out / device.name
        if profile.id.startswith(_RASPBERRY_PI):
            words = f"first-boot {folder} --boot BOOT_PARTITION --system {profile.systems[0]}"
        else:
            words = f"bundle {folder} --system {profile.systems[0]} --out {device.name}.tar"
        yield f"Next, for each {profile.id}: fisherfleet devices flash {words}"


def _addresses(told: Told) -> Iterator[str]:
    if told.broker is None:
        yield f"They are told: server {told.server}, which tells them its own broker (--broker names another)."
        return
    broker, host = parse_broker_url(told.broker), urlsplit(told.server).hostname
    yield f"They are told: broker {broker}, server {told.server}."
    if told.assumed and broker.host != host:
        yield (
            f"Warning: --broker was not given, so it is the fleet's own host, {broker.host}; the server's is {host}: "
            f"if devices do not reach the broker there, change broker in {told.configuration}."
        )

"""What `fisherfleet fleet` tells the operator: what was done, what to copy where, and what to run next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from devices.provisioning.enrolment import Member
from devices.provisioning.rotation import Renewed
from server.fleet.authority_folder import REVOKED
from server.fleet.fleet_folder import (
    BROKER,
    DEVICE_KEY_NAME,
    FLEET_NAME,
    IDENTITY_FOLDER,
    OPERATOR,
    SERVER,
    FleetFolder,
    broker_hosts,
)
from wire_protocol.identity import load_fleet

_NEAR_DAYS = 90
_RELOAD = "let the broker read it again (mosquitto: systemctl reload mosquitto, or kill -HUP its process)"


def initialised(folder: FleetFolder) -> str:
    """After `init`."""
    name = load_fleet(folder.fleet_file).name
    return _lines(
        f"The fleet {name} is in {folder.path}.",
        f"  {folder.operator_key} and {folder.authority} are its secrets: keep a copy in a safe place, show nobody.",
        f"  The broker's certificate is for {', '.join(broker_hosts(folder))}; for others run this again with --host.",
        "Next:",
        f"  fisherfleet broker-config mosquitto --fleet {folder.path}",
        f"  fisherfleet fleet add {folder.path} NAME...",
        f"  fisherfleet serve --fleet {folder.path} ...",
    )


def added(folder: FleetFolder, names: Sequence[str], new: Sequence[str]) -> str:
    """After `add`."""
    words = [f"{name} was in the fleet already; nothing changed." for name in names if name not in new]
    words += [f"Copy {folder.device(name)} to {name}: scp -pr {folder.device(name)} USER@HOST:" for name in new]
    if new:
        words += [
            "Then, on the device, put its data beside device.toml and run: fisherfleet-edge --config device.toml",
            f"{IDENTITY_FOLDER}/{DEVICE_KEY_NAME} is the device's secret; once copied it may be deleted here.",
        ]
    return _lines(*words)


def table(members: Sequence[Member], ends: Mapping[str, datetime | None], operator: int, now: datetime) -> str:
    """For `list`."""
    rows = [("name", "keys", "certificate ends", ""), (OPERATOR, str(operator), "-", _rotating(operator))]
    rows += [(name, "-", _day(end), _near(end, now)) for name, end in ends.items()]
    for member in members:
        standing = "revoked" if member.revoked else _rotating(member.keys) or _near(member.certificate_ends, now)
        rows.append((member.name, str(member.keys), _day(member.certificate_ends), standing))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return _lines(
        *("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    )


def revoked(folder: FleetFolder, name: str, changed: bool) -> str:
    """After `revoke`."""
    done = f"{name} is out of the fleet" if changed else f"{name} was out of the fleet already"
    return _lines(
        f"{done}: the server counts nothing more from it, which needs no restart.",
        f"So that the broker refuses it too, copy {folder.broker / REVOKED} to the broker, {_RELOAD}.",
        "A connection that stands already ends with the broker's restart.",
    )


def operator_begun(folder: FleetFolder, changed: bool) -> str:
    """After `rotate operator`."""
    done = "The operator has new keys; old and new are valid." if changed else "The operator's keys are being changed."
    return _lines(
        done,
        f"1. {_restart(folder)}",
        f"2. Copy {folder.fleet_file} into {IDENTITY_FOLDER}/ of every device, and restart fisherfleet-edge there.",
        "3. When every device has it, and not before:",
        f"   fisherfleet fleet rotate {folder.path} {OPERATOR} --finish",
    )


def operator_finished(folder: FleetFolder, changed: bool) -> str:
    """After `rotate operator --finish`."""
    if not changed:
        return "The operator has one pair of keys only: there is nothing to finish."
    return _lines(
        "The operator's old keys are dropped.",
        f"1. {_restart(folder)}",
        f"2. Copy {folder.fleet_file} into {IDENTITY_FOLDER}/ of every device when it suits: until then it trusts the "
        "old keys too.",
        "A device that never got the new keys takes no part any more until it gets them.",
    )


def device_begun(folder: FleetFolder, name: str, changed: bool) -> str:
    """After `rotate NAME`."""
    done = f"{name} has new keys; old and new are valid." if changed else f"The keys of {name} are being changed."
    return _lines(
        done,
        f"1. Copy {folder.identity(name)} to the device, in place of the one there, and restart fisherfleet-edge.",
        f"2. Then: fisherfleet fleet rotate {folder.path} {name} --finish",
    )


def device_finished(folder: FleetFolder, name: str, changed: bool) -> str:
    """After `rotate NAME --finish`."""
    if not changed:
        return f"{name} has one pair of keys only: there is nothing to finish."
    return _lines(
        f"The old keys of {name} are dropped and its old certificates revoked.",
        f"Copy {folder.broker / REVOKED} to the broker, {_RELOAD}.",
    )


def renewed(folder: FleetFolder, certificates: Sequence[Renewed], within: float) -> str:
    """After `renew`."""
    words = []
    for one in certificates:
        if one.name == BROKER:
            place = f"to the broker, {_RELOAD}"
        elif one.name == SERVER:
            place = f"to where the server runs, into {SERVER}/, and restart fisherfleet serve"
        else:
            place = f"to the device {one.name}, into {IDENTITY_FOLDER}/, and restart fisherfleet-edge"
        words.append(f"{one.name}: valid until {_day(one.ends)}. Copy {one.path} {place}.")
    if not words:
        words.append(f"No certificate of {folder.path} ends within {within:g} days.")
    else:
        words.append("The keys are the same; the old certificates work until their end.")
    return _lines(*words)


def _lines(*lines: str) -> str:
    return "\n".join(lines)


def _restart(folder: FleetFolder) -> str:
    files = f"{folder.operator_key.name} and {FLEET_NAME}"
    return f"Restart fisherfleet serve; where it runs on another machine, first copy {files} of {folder.path} there."


def _day(end: datetime | None) -> str:
    return end.date().isoformat() if end else "-"


def _rotating(keys: int) -> str:
    return "keys are being changed" if keys > 1 else ""


def _near(end: datetime | None, now: datetime) -> str:
    if end is None or (end - now).days >= _NEAR_DAYS:
        return ""
    return "has ended: renew it" if end < now else f"ends in {(end - now).days} days: renew it"

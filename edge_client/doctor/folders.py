"""Are the device's own files right: keys, data, the privacy ledger, who owns them, and the disk they are on."""

from __future__ import annotations

import os
import shutil
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

from edge_client.bundle_store import BundleStore
from edge_client.config import DeviceConfig
from edge_client.credentials import (
    CERTIFICATE_FILE,
    KEY_FILE,
    TLS_KEY_FILE,
    broker_tls,
    load_credentials,
    read_certificate,
)
from edge_client.durable_files import plainly, write_durably
from edge_client.findings import Finding
from edge_client.privacy.ledger import read_ledger
from edge_client.privacy.status import status_of
from wire_protocol.errors import FisherfleetError
from wire_protocol.examples import ExamplesError, fit_examples, load_examples

PROBE = "doctor"
NEAR_END = timedelta(days=30)
BYTES_PER_MB = 1_000_000
SPARE_MB = 100
"""For bundles and models, beside the outbox."""
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def examine_keys(config: DeviceConfig) -> list[Finding]:
    """Whether identity/ has all, is this device's, and is nobody else's."""
    try:
        fleet = load_credentials(config).fleet
        broker_tls(config)
    except FisherfleetError as error:
        return [Finding("keys", "bad", str(error), "copy identity/ as the operator made it, with its modes")]
    exposed = [name for name in (KEY_FILE, TLS_KEY_FILE) if _others_read(config.identity / name)]
    if exposed:
        paths = " ".join(str(config.identity / name) for name in exposed)
        return [Finding("keys", "bad", f"others can read {paths}", f"chmod 600 {paths}")]
    good = Finding("keys", "good", f"{config.device} has its keys and pins the operator of fleet {fleet.name}")
    return [good, *_certificate(config, datetime.now(timezone.utc))]


def _certificate(config: DeviceConfig, now: datetime) -> list[Finding]:
    path = config.identity / CERTIFICATE_FILE
    if not path.is_file():
        return []
    ends = read_certificate(path).not_valid_after_utc
    text = f"this device's certificate is valid until {ends.date()}"
    if ends - now > NEAR_END:
        return [Finding("certificate", "good", text)]
    advice = f"fisherfleet fleet renew FOLDER {config.device}, where the fleet's folder is, then copy what it names"
    if ends > now:
        return [Finding("certificate", "weak", text, advice)]
    return [Finding("certificate", "bad", f"this device's certificate ended on {ends.date()}", advice)]


def _others_read(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & _OTHERS)
    except FileNotFoundError:
        return False


def examine_owners(config: DeviceConfig) -> list[Finding]:
    """Whether one user owns all: what root has made by hand the service cannot read or write."""
    paths = [path for path in (config.identity, config.data, config.state) if path.exists()]
    paths += [path for folder in (config.identity, config.state) for path in folder.glob("*")]
    owners = {path.stat().st_uid for path in paths}
    if len(owners) <= 1:
        return []
    odd = ", ".join(f"{path} (user {path.stat().st_uid})" for path in paths[:3])
    advice = f"chown -R all of it to the user of the service: {config.identity.parent}"
    return [Finding("owner", "weak", f"identity/, data and state/ belong to {len(owners)} users: {odd}", advice)]


def examine_data(config: DeviceConfig) -> list[Finding]:
    """Whether the examples can be read, are finite, and fit the bundle used last."""
    try:
        examples = load_examples(config.data, labelled=False)
        bundle = BundleStore(config.server, config.state)
        newest = bundle.newest_bundle()
        manifest = None if newest is None else bundle.manifest_here(newest)
        if manifest is not None:
            fit_examples(examples, manifest, str(config.data))
    except ExamplesError as error:
        return [Finding("data", "bad", str(error), "see what the model expects: docs/your-model.md")]
    shape = " x ".join(map(str, examples.x.shape[1:]))
    fits = "" if manifest is None else ", which the newest model takes"
    return [Finding("data", "good", f"{len(examples)} examples of {shape}{fits}")]


def examine_ledger(config: DeviceConfig) -> list[Finding]:
    """Whether the privacy ledger is as it was left, and what is left of the cap."""
    try:
        status = status_of(read_ledger(config.state), config.privacy)
    except FisherfleetError as error:
        return [Finding("ledger", "bad", str(error))]
    text = f"epsilon {status.epsilon:.4g} of {config.privacy.epsilon:g} is spent"
    if status.left <= 0:
        return [Finding("ledger", "weak", text, "private runs are over here, unless [privacy] allows more")]
    return [Finding("ledger", "good", text)]


def examine_disk(config: DeviceConfig) -> list[Finding]:
    """Whether the state folder can be written to the disk, and how much room there is."""
    folder = config.state if config.state.exists() else config.state.parent
    probe = folder / PROBE
    try:
        write_durably(probe, [b"?"])
        probe.unlink()
        free = shutil.disk_usage(folder).free // BYTES_PER_MB
    except OSError as error:
        user = f"user {os.getuid()}" if hasattr(os, "getuid") else "this user"
        text = f"{folder} cannot be written by {user}: {plainly(error)}"
        return [Finding("disk", "bad", text, "free or mend the disk; chown the folder to the user of the service")]
    text = f"{folder} takes writes and has {free:,} MB free"
    if free < config.outbox_mb + SPARE_MB:
        advice = f"make room: {SPARE_MB} MB for models and {config.outbox_mb} MB for updates (outbox_mb)"
        return [Finding("disk", "weak", text, advice)]
    return [Finding("disk", "good", text)]

"""All that the doctor of a device looks at, in order; what needs a `device.toml` is left out where that cannot be read.

A check is loaded when its turn comes, as a package that cannot be loaded is a finding, and so is any other failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from edge_client.config import load_config
from edge_client.config_option import ENROLMENT_FILE
from edge_client.findings import Finding
from wire_protocol.errors import FisherfleetError

OF_THE_MACHINE = {
    "Python": "packages.examine_python",
    "packages": "packages.examine_packages",
    "onnxruntime": "packages.examine_onnxruntime",
    "clock": "machine.examine_clock",
    "temperature": "machine.examine_temperature",
}
OF_THE_DEVICE = {
    "provider": "packages.examine_provider",
    "updates": "updates.examine_launch",
    "keys": "folders.examine_keys",
    "owner": "folders.examine_owners",
    "data": "folders.examine_data",
    "ledger": "folders.examine_ledger",
    "disk": "folders.examine_disk",
}
OF_ITS_PEERS = {"server": "peers.examine_server", "broker": "peers.examine_broker"}


def examine(path: Path, seconds: float) -> list[Finding]:
    """Findings on a machine and on the device whose configuration is at `path`; each peer may take so many seconds."""
    findings = _carry_out(OF_THE_MACHINE)
    try:
        config = load_config(path)
    except (FisherfleetError, OSError) as error:
        return [*findings, _no_configuration(path, error)]
    findings.append(Finding("device.toml", "good", f"{config.device} at {config.broker} and {config.server}"))
    return findings + _carry_out(OF_THE_DEVICE, config) + _carry_out(OF_ITS_PEERS, config, seconds)


def _no_configuration(path: Path, error: Exception) -> Finding:
    waiting = path.with_name(ENROLMENT_FILE)
    with suppress(OSError):
        if waiting.exists() and not path.exists():
            text = f"{waiting} is there: the device has not enrolled yet"
            return Finding("device.toml", "bad", text, "start the service; fisherfleet-edge logs says what came of it")
    advice = "mend it, or say by --config where it is; only its owner and root may read what an image installs"
    return Finding("device.toml", "bad", str(error), advice)


def _carry_out(checks: Mapping[str, str], *given: Any) -> list[Finding]:
    return [finding for name, check in checks.items() for finding in _tried(name, check, *given)]


def _tried(name: str, check: str, *given: Any) -> list[Finding]:
    module, function = check.split(".")
    try:
        return list(getattr(import_module(f"edge_client.doctor.{module}"), function)(*given))
    except Exception as error:
        text = f"could not be tried: {type(error).__name__}: {error}"
        return [Finding(name, "bad", text, "mend what is said above; else tell the makers of this software")]

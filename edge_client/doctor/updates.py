"""Whether this client may update itself where the device's owner allows it."""

from __future__ import annotations

from edge_client.config import DeviceConfig
from edge_client.errors import ConfigError
from edge_client.findings import Finding
from edge_client.updates.device_updates import require_launched


def examine_launch(config: DeviceConfig) -> list[Finding]:
    """Whether what starts the client can go back where a release fails, without which it refuses to start."""
    if not config.updates.client:
        return []
    try:
        require_launched(config)
    except ConfigError as error:
        advice = "where the package is installed, ask its own doctor: /usr/bin/fisherfleet-edge doctor"
        return [Finding("updates", "bad", str(error), advice)]
    return [Finding("updates", "good", "the launcher of the package started this client: it may take releases")]

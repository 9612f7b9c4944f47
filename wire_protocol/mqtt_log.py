"""What both ends leave out of their MQTT library's log."""

from __future__ import annotations

from logging import LogRecord


def matters(record: LogRecord) -> bool:
    """A filter for aiomqtt's log: leaves out the broker's answer to a request that was cancelled, as in a stop."""
    return not str(record.msg).startswith("Unexpected message ID")

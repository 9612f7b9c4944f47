"""The MQTT topic grammar: names made and read in one place::

    fl/v1/up/{device}/{run}/{round}/{manifest | chunk number}     device to server
    fl/v1/down/{device}/{receipt | need}                          server to device
    fl/v1/down/{device}/slice/{run}/{round}/{manifest | chunk number}
    fl/v1/up/{device}/want                                        device to server
    fl/v1/down/{device}/file/{SHA-256}/{manifest | chunk number}  server to device
    fl/v1/down/{device}/release                                   server to device, retained
    fl/v1/up/{device}/report                                      device to server
    fl/v1/cast/{run}/{plan | model}                               server to all, retained
    fl/v1/state/{device}                                          retained birth, last will

The SHA-256 (lower-case hexadecimal) is that of a file's sealed payload. Numbers are decimal without leading zeros, of
at most nine digits; rounds begin at 1. Devices and runs are identifiers (`require_identifier`).

Who may do what with them is `ACCESS_RULES`, which brokers' access rules are made from: a device writes and reads what
bears its own name, and reads what is for all; the server reads what devices write and writes what they read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from wire_protocol.errors import ProtocolError, require

ROOT = "fl/v1"
MANIFEST = "manifest"
MAX_NUMBER = 999_999_999
UPLINK_FILTER = f"{ROOT}/up/#"
STATE_FILTER = f"{ROOT}/state/+"

DEVICE_PLACEHOLDER = "{device}"
"""What stands for a device's own name in a rule."""
SERVER_NAMES = ("server", "doctor")
"""User names on the broker of the server and of the operator's `fisherfleet doctor`; no device has one of them."""

Role = Literal["device", "server"]
Access = Literal["publish", "read"]

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Part(NamedTuple):
    """Where a piece of a chunked payload belongs; `chunk` is None for its manifest."""

    device: str
    run: str
    round: int
    chunk: int | None


class FilePart(NamedTuple):
    """A piece of a sealed file named by its hexadecimal SHA-256; `chunk` is None for its manifest."""

    device: str
    sha256: str
    chunk: int | None


class AccessRule(NamedTuple):
    """What a role may do with the topics of a filter; what no rule allows is refused."""

    role: Role
    access: Access
    filter: str

    def filter_of(self, device: str) -> str:
        """The filter for one device."""
        return self.filter.replace(DEVICE_PLACEHOLDER, device)


ACCESS_RULES = (
    AccessRule("device", "publish", f"{ROOT}/up/{DEVICE_PLACEHOLDER}/#"),
    AccessRule("device", "publish", f"{ROOT}/state/{DEVICE_PLACEHOLDER}"),
    AccessRule("device", "read", f"{ROOT}/down/{DEVICE_PLACEHOLDER}/#"),
    AccessRule("device", "read", f"{ROOT}/cast/#"),
    AccessRule("server", "read", f"{ROOT}/up/#"),
    AccessRule("server", "read", f"{ROOT}/state/#"),
    AccessRule("server", "publish", f"{ROOT}/down/#"),
    AccessRule("server", "publish", f"{ROOT}/cast/#"),
)


def require_identifier(field: str, value: str) -> str:
    """Return `value` where it can name a device or a run, else raise `InvalidValueError`."""
    legal = "1 to 64 letters, digits, - or _, starting with a letter or digit"
    require(_IDENTIFIER.fullmatch(value) is not None, field, value, legal)
    return value


def uplink(part: Part) -> str:
    """Topic of a piece of an update."""
    return f"{ROOT}/up/{part.device}/{part.run}/{part.round}/{_piece(part)}"


def slice_(part: Part) -> str:
    """Topic of a piece of a slice."""
    return f"{ROOT}/down/{part.device}/slice/{part.run}/{part.round}/{_piece(part)}"


def receipt(device: str) -> str:
    """Topic of a device's receipts."""
    return f"{ROOT}/down/{device}/receipt"


def need(device: str) -> str:
    """Topic on which the server asks a device for chunks."""
    return f"{ROOT}/down/{device}/need"


def want(device: str) -> str:
    """Topic on which a device asks for files."""
    return f"{ROOT}/up/{device}/want"


def file(part: FilePart) -> str:
    """Topic of a piece of a file."""
    return f"{ROOT}/down/{part.device}/file/{part.sha256}/{_piece(part)}"


def release(device: str) -> str:
    """Topic of the release of the client that a device is offered."""
    return f"{ROOT}/down/{device}/release"


def report(device: str) -> str:
    """Topic on which a device says what it runs."""
    return f"{ROOT}/up/{device}/report"


def model(run: str) -> str:
    """Topic of a run's promoted model; with `+` the filter for every run."""
    return f"{ROOT}/cast/{run}/model"


def plan(run: str) -> str:
    """Topic of a run's plan; with `+` the filter for every run."""
    return f"{ROOT}/cast/{run}/plan"


def state(device: str) -> str:
    """Topic of a device's birth message and last will."""
    return f"{ROOT}/state/{device}"


def downlink_filter(device: str) -> str:
    """All that the server sends to one device."""
    return f"{ROOT}/down/{device}/#"


def parse_part(topic: str) -> Part:
    """Read an uplink or slice topic; raises `ProtocolError` on anything else."""
    fields = topic.split("/")
    if fields[:3] == ["fl", "v1", "up"] and len(fields) == 7:
        device, run, number, piece = fields[3:]
    elif fields[:3] == ["fl", "v1", "down"] and len(fields) == 8 and fields[4] == "slice":
        device, (run, number, piece) = fields[3], fields[5:]
    else:
        raise ProtocolError(f"not a topic of a chunked payload: {topic!r}")
    names_legal = _IDENTIFIER.fullmatch(device) and _IDENTIFIER.fullmatch(run)
    numbers_legal = _NUMBER.fullmatch(number) and number != "0" and (piece == MANIFEST or _NUMBER.fullmatch(piece))
    if not (names_legal and numbers_legal):
        raise ProtocolError(f"not a topic of a chunked payload: {topic!r}")
    return Part(device, run, int(number), None if piece == MANIFEST else int(piece))


def is_want(topic: str) -> bool:
    """Whether it can only be a device's request for a file; `parse_want` says whether it is one."""
    return _is_word(topic, "want")


def parse_want(topic: str) -> str:
    """Device of a request for a file; raises `ProtocolError` on anything else."""
    return _device_of(topic, want, "a file is asked for")


def is_report(topic: str) -> bool:
    """Whether it can only be a device's word on what it runs; `parse_report` says whether it is one."""
    return _is_word(topic, "report")


def parse_report(topic: str) -> str:
    """Device of a word on what it runs; raises `ProtocolError` on anything else."""
    return _device_of(topic, report, "a device reports")


def _is_word(topic: str, kind: str) -> bool:
    return topic.endswith(f"/{kind}") and topic.count("/") == 4


def _device_of(topic: str, of: Callable[[str], str], what: str) -> str:
    device = topic.removeprefix(f"{ROOT}/up/").rpartition("/")[0]
    if not _IDENTIFIER.fullmatch(device) or topic != of(device):
        raise ProtocolError(f"not a topic on which {what}: {topic!r}")
    return device


def is_file(topic: str, device: str) -> bool:
    """Whether it can only be a piece of a file for a device."""
    return topic.startswith(f"{ROOT}/down/{device}/file/")


def parse_file(topic: str) -> FilePart:
    """Read the topic of a piece of a file; raises `ProtocolError` on anything else."""
    fields = topic.split("/")
    if fields[:3] == ["fl", "v1", "down"] and len(fields) == 7 and fields[4] == "file":
        device, digest, piece = fields[3], fields[5], fields[6]
        legal = _IDENTIFIER.fullmatch(device) and _SHA256.fullmatch(digest)
        if legal and (piece == MANIFEST or _NUMBER.fullmatch(piece)):
            return FilePart(device, digest, None if piece == MANIFEST else int(piece))
    raise ProtocolError(f"not a topic of a file: {topic!r}")


def parse_state(topic: str) -> str:
    """Device of a state topic; raises `ProtocolError` on anything else."""
    prefix, _, device = topic.rpartition("/")
    if prefix != f"{ROOT}/state" or not _IDENTIFIER.fullmatch(device):
        raise ProtocolError(f"not a device's state topic: {topic!r}")
    return device


def _piece(part: Part | FilePart) -> str:
    return MANIFEST if part.chunk is None else str(part.chunk)

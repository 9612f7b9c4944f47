"""The errors of the wire: the peer's fault, our own fault, and their common parent."""

import re
from reprlib import Repr

_LONGEST_VALUE = 120
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


class FisherfleetError(Exception):
    """Parent of every error this project raises on purpose; its text is one line fit for a user."""


class ProtocolError(FisherfleetError):
    """The peer sent bytes that are not a valid message."""


class InvalidValueError(FisherfleetError, ValueError):
    """A value of ours is outside its legal range; the text names field, value and range.

    `field` is its name for programs, empty where several are wrong together.
    """

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


def require(condition: bool, field: str, value: object, legal: str) -> None:
    """Raise `InvalidValueError` naming `field`, `value` and the `legal` range unless `condition`."""
    if not condition:
        raise InvalidValueError(f"{field} must be {legal}, got {_shortened(value)}", field)


def require_hex_sha256(field: str, digest: str) -> None:
    """Raise `InvalidValueError` unless `digest` is a SHA-256 as this protocol writes it."""
    require(_HEX_SHA256.fullmatch(digest) is not None, field, digest, "64 lower-case hexadecimal digits")


def _shortened(value: object) -> str:
    """`repr`, but what a hostile peer sent cannot fill a log."""
    limits = Repr()
    limits.maxstring = limits.maxother = limits.maxlong = _LONGEST_VALUE
    limits.maxlist = limits.maxtuple = 16
    return limits.repr(value)

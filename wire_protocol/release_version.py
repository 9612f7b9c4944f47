"""Versions of the client as releases have them: two to four numbers with dots between, `0.2.0`; standard library only.

They are compared number by number, what is missing being 0, so that of two releases each end says the same which one
is newer. Suffixes of PEP 440 are refused: an order that depends on a parser's version is no guard against going back.
"""

from __future__ import annotations

import re

from wire_protocol.errors import require

LEGAL = "2 to 4 numbers of at most 9 digits, without leading zeros, with dots between"
_VERSION = re.compile(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){1,3}")
_NUMBERS = 4


def is_version(text: str) -> bool:
    """Whether this is a version; it then is a legal name of a folder, too."""
    return _VERSION.fullmatch(text) is not None


def require_version(field: str, text: str) -> str:
    """Return `text` where it is a version, else raise `InvalidValueError`."""
    require(is_version(text), field, text, LEGAL)
    return text


def age(version: str) -> tuple[int, ...]:
    """Grows with versions; of a legal one."""
    numbers = [int(number) for number in version.split(".")]
    return tuple(numbers + [0] * (_NUMBERS - len(numbers)))


def is_newer(version: str, than: str) -> bool:
    """Whether a version is newer than another; one that is no version is older than any."""
    return is_version(version) and (not is_version(than) or age(version) > age(than))

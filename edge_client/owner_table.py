"""A table of `device.toml`, read strictly: each key has a reader, and a key without one is refused. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from sys import float_info
from typing import Any

from wire_protocol.errors import require

Reader = Callable[[str, object], Any]
"""From the key's full name and its value; raises `InvalidValueError` naming both and what is legal."""


def read_table(name: str, table: object, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The values of the table `[name]`; raises `InvalidValueError` that names key, value and what is legal."""
    require(isinstance(table, Mapping), name, table, f"a table [{name}]")
    assert isinstance(table, Mapping)
    for key in table:
        require(key in readers, f"key of {name}", key, f"one of {', '.join(readers)}")
    return {key: readers[key](f"{name}.{key}", value) for key, value in table.items()}


def number(name: str, value: object, legal: str) -> float:
    """A finite number, as a float; `legal` is what the key takes, in words."""
    right = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= float_info.max
    require(right, name, value, legal)
    assert isinstance(value, int | float)
    return float(value)


def flag(name: str, value: object) -> bool:
    """True or false."""
    require(isinstance(value, bool), name, value, "true or false")
    return bool(value)

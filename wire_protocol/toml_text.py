"""TOML as far as settings need it: texts, numbers and flags, and tables of them. Whoever reads it uses tomllib."""

from __future__ import annotations

import json
from collections.abc import Mapping

Value = str | int | float | bool
"""What a key may hold; floats are finite."""


def toml_text(table: Mapping[str, Value | Mapping[str, Value]]) -> str:
    """A file's text, tables after the keys that stand alone (TOML 1.0; keys are letters, digits, `_` and `-`)."""
    alone = [_line(key, value) for key, value in table.items() if not isinstance(value, Mapping)]
    tables = [
        f"\n[{key}]\n" + "".join(_line(inner, one) for inner, one in value.items())
        for key, value in table.items()
        if isinstance(value, Mapping)
    ]
    return "".join((*alone, *tables))


def _line(key: str, value: Value) -> str:
    return f"{key} = {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n".replace("\x7f", "\\u007f")

"""A run's configuration as names and values, as JSON has them: for the database, the HTTP interface and files.

Privacy is said in words: "none", or an object whose `type` is record or device. What is left out is the default, but
for privacy, which is never left out: nobody trains without it by an oversight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import msgspec

from server.config import RunConfig
from wire_protocol.errors import InvalidValueError, require

NOT_PRIVATE = "none"


def run_values(config: RunConfig) -> dict[str, Any]:
    """The configuration as names and values."""
    complete = asdict(config)  # of a dataclass that it read itself msgspec leaves defaults out
    values: dict[str, Any] = msgspec.to_builtins(complete)
    return values if config.privacy is not None else values | {"privacy": NOT_PRIVATE}


def read_run(run: str, values: Mapping[str, Any]) -> RunConfig:
    """The configuration of the run of this name; raises `InvalidValueError` that names the field."""
    named = values.get("run", run)
    require(named == run, "run", named, f"left out, or {run}")
    if "privacy" not in values:
        raise InvalidValueError("privacy is missing: say none, or an object whose type is record or device")
    require(values["privacy"] is not None, "privacy", None, 'an object, or "none"')
    _require_known(RunConfig, values, "")
    privacy = None if values["privacy"] == NOT_PRIVATE else values["privacy"]
    try:
        return msgspec.convert({**values, "run": run, "privacy": privacy}, RunConfig)
    except msgspec.ValidationError as error:
        raise InvalidValueError(_plainly(str(error))) from error
    except UnicodeEncodeError as error:  # JSON's \ud800 alone, which msgspec cannot read
        raise InvalidValueError(f"a text has {error.object!r:.100}, which is not Unicode") from error


def _require_known(kind: type[Any], values: Mapping[str, Any], within: str) -> None:
    """What is misspelt must not count as left out; msgspec looks at its own structs only."""
    kinds = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    for name, value in values.items():
        require(name in known, f"{within}{name}", value, f"left out: there are {', '.join(known)}")
        inner = next((one for one in (kinds[name], *get_args(kinds[name])) if is_dataclass(one)), None)
        if isinstance(inner, type) and isinstance(value, Mapping):
            _require_known(inner, value, f"{within}{name}.")


def _plainly(text: str) -> str:
    """`Expected ... - at `$.rounds`` with the field first."""
    what, _, where = text.partition(" - at `$.")
    return f"{where.rstrip('`')}: {what}" if where else what

"""A run's configuration as names and values, as JSON has them: for the database, the HTTP interface and files.

Privacy is said in words: "none", or an object whose `type` is record or device. What is left out is the default, but
for privacy, which is never left out: nobody trains without it by an oversight. In place of a `noise_multiplier` the
object may have an `epsilon`, and its `delta`: then the noise is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, get_args, get_type_hints

import msgspec

from server.config import RunConfig
from server.privacy.noise_target import within_target
from server.privacy.run_words import DELTA, schedule_of_run
from wire_protocol.errors import InvalidValueError, require

NOT_PRIVATE = "none"
_AT = " - at `$."
_FOUND_LATER = 1.0
"""A noise multiplier, until the one for an epsilon is found."""


def run_values(config: RunConfig) -> dict[str, Any]:
    """The configuration as names and values."""
    complete = asdict(config)  # of a dataclass that it read itself msgspec leaves defaults out
    values: dict[str, Any] = msgspec.to_builtins(complete)
    return values if config.privacy is not None else values | {"privacy": NOT_PRIVATE}


def read_run(run: str, values: Mapping[str, Any]) -> RunConfig:
    """The configuration of the run of this name; raises `InvalidValueError` that names the field.

    Finding the noise for an epsilon takes a second or two.
    """
    named = values.get("run", run)
    require(named == run, "run", named, f"left out, or {run}")
    if "privacy" not in values:
        missing = "privacy is missing: say none, or an object whose type is record or device"
        raise InvalidValueError(missing, "privacy")
    require(values["privacy"] is not None, "privacy", None, 'an object, or "none"')
    _require_known(RunConfig, values, "")
    privacy, target = _without_target(values["privacy"])
    config = _converted({**values, "run": run, "privacy": privacy})
    if target is None or config.privacy is None:
        return config
    return replace(config, privacy=within_target(config.privacy, *target, schedule_of_run(config, config.privacy)))


def _converted(values: Mapping[str, Any]) -> RunConfig:
    try:
        return msgspec.convert(values, RunConfig)
    except msgspec.ValidationError as error:
        within, inner = _where(str(error)), getattr(error.__cause__, "field", "")
        field = ".".join(part for part in (within, inner) if part)
        raise InvalidValueError(_plainly(str(error)), field) from error
    except UnicodeEncodeError as error:  # JSON's \ud800 alone, which msgspec cannot read
        raise InvalidValueError(f"a text has {error.object!r:.100}, which is not Unicode") from error


def _without_target(privacy: Any) -> tuple[Any, tuple[float, float] | None]:
    """The privacy with a noise multiplier, and the epsilon and delta for which one is to be found, if any."""
    if privacy == NOT_PRIVATE:
        return None, None
    if not isinstance(privacy, Mapping) or "epsilon" not in privacy:
        return privacy, None
    given = privacy.get("noise_multiplier")
    require(given is None, "privacy.noise_multiplier", given, "left out beside epsilon")
    rest = {name: value for name, value in privacy.items() if name not in ("epsilon", "delta")}
    target = (privacy["epsilon"], privacy.get("delta", DELTA))
    for name, value in zip(("epsilon", "delta"), target, strict=True):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(number, f"privacy.{name}", value, "a number")
    return rest | {"noise_multiplier": _FOUND_LATER}, target


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
    where = _where(text)
    return f"{where}: {text.partition(_AT)[0]}" if where else text


def _where(text: str) -> str:
    """The field that msgspec's words are about, empty for the whole."""
    return text.partition(_AT)[2].rstrip("`")

"""How log lines look: text for people, or a JSON object a line for programs, with what the line is about as fields.

Whoever works on a run, a round or for a device says so once (`about`); lines written meanwhile bear it, also from
worker threads. JSON is by python-json-logger.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

LogFormat = Literal["text", "json"]

_about: ContextVar[Mapping[str, str | int]] = ContextVar("about", default={})  # noqa: B039 - never changed


@contextmanager
def about(**ids: str | int) -> Iterator[None]:
    """Lines written meanwhile are about these (`run`, `round`, `device`), besides what they were about before."""
    token = _about.set({**_about.get(), **ids})
    try:
        yield
    finally:
        _about.reset(token)


class _About(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in _about.get().items():
            setattr(record, name, value)
        return True


def configure_logging(kind: LogFormat) -> None:
    """Write log lines to stderr in this form."""
    handler = logging.StreamHandler()
    handler.addFilter(_About())
    if kind == "json":
        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        line = JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=names)
        line.default_msec_format = "%s.%03dZ"
        handler.setFormatter(line)
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(handlers=[handler], force=True)

"""Hook of mkdocs: writes the OpenAPI description of the server's own application, which the page http-api.md shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from server.api.sources import Sources
from server.app import create_app

SCHEMA = Path("build/openapi.json")


def on_pre_build(**_: Any) -> None:
    """Describe the routes, none of which is asked anything."""
    SCHEMA.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(json.dumps(create_app(cast(Sources, _Anything())).openapi()))


class _Anything:
    def __getattr__(self, name: str) -> _Anything:
        return self

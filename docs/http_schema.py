"""Hook of mkdocs: writes the OpenAPI description of the server's own application, which the page http-api.md shows."""

import json
from pathlib import Path
from typing import Any, cast

from server.api.sources import Sources
from server.app import create_app

SCHEMA = Path("build/openapi.json")


def on_pre_build(**_: Any) -> None:
    """Describe the routes; nothing is asked of their sources for that."""
    SCHEMA.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(json.dumps(create_app(cast(Sources, _NoSources())).openapi()))


class _NoSources:
    traffic = None

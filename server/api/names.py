"""Names in paths, queries and bodies, with what is legal for OpenAPI and a refusal before anything is looked up."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import StringConstraints

_IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"

Identifier = Annotated[str, StringConstraints(pattern=_IDENTIFIER)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

RunName = Annotated[str, Path(pattern=_IDENTIFIER, description="name of a run", examples=["digits"])]
DeviceName = Annotated[str, Path(pattern=_IDENTIFIER, description="name of a device", examples=["kitchen"])]
TokenName = Annotated[str, Path(pattern=_IDENTIFIER, description="name of a token", examples=["dashboard"])]
Version = Annotated[int, Path(ge=0, le=2**53, description="number of a model version", examples=[12])]

AfterName = Annotated[
    str | None, Query(pattern=_IDENTIFIER, description="`next` of the page before; left out for the first")
]

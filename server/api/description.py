"""How the interface describes itself: OpenAPI, with every problem as `application/problem+json`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from server.api.problems import MEDIA_TYPE

_WORDS = """Federated learning for fleets of small computers.

Send a token as `Authorization: Bearer TOKEN`; `fisherfleet tokens create` makes one. Only what devices fetch by its
hash, `/health` and enrolment, which has tokens of its own, take none. A **viewer** reads, an **operator** changes
things too.

* Lists come in pages: as long as `next` is not null, ask again with it as `after`.
* A read is answered with an `ETag`; with `If-None-Match` the answer is 304 when nothing has changed.
* A `POST` with an `Idempotency-Key` of your choice is carried out once: sent again within 24 hours it is answered as
  the first time. What is answered with a secret, or is named by its content, takes no key.
* Errors are `application/problem+json` (RFC 9457); `detail` says what was wrong.
"""


def describe(app: FastAPI) -> None:
    """Give an application whose routes are all there its description."""
    app.description, app.version = _WORDS, version("fisherfleet")
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        made = app.openapi_schema is not None
        schema = plain()
        if not made:
            for operations in schema["paths"].values():
                for operation in operations.values():
                    _name_problems(operation["responses"])
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _name_problems(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        if status >= "400" and "application/json" in response.get("content", {}):
            response["content"][MEDIA_TYPE] = response["content"].pop("application/json")

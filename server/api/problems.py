"""Every error of the interface as `application/problem+json` (RFC 9457), whoever raised it.

`type` is always `about:blank`, so the status says what kind of problem it is and `detail` what was wrong with this
request, in one line fit for an operator.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from server.control import ConflictError, UnknownRunError
from server.errors import (
    BundleError,
    EnrolmentError,
    ProvisioningError,
    ReleaseError,
    StorageError,
    TokenError,
    UnknownReleaseError,
)
from wire_protocol.errors import FisherfleetError, InvalidValueError
from wire_protocol.identity import IdentityError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_LONGEST_PLACE, _LONGEST_MESSAGE, _MOST_PLACES = 200, 300, 20
_STATUS_OF: dict[type[FisherfleetError], int] = {
    UnknownRunError: 404,
    UnknownReleaseError: 404,
    ConflictError: 409,
    EnrolmentError: 403,
    IdentityError: 409,
    ProvisioningError: 409,
    TokenError: 409,
    InvalidValueError: 422,
    BundleError: 422,
    ReleaseError: 422,
    StorageError: 503,
}
_WORDS = {
    400: "the request is not what HTTP or this interface knows",
    401: "no token, or one that opens nothing",
    403: "the token's role does not allow it",
    404: "there is no such thing",
    409: "what is there forbids it",
    412: "it was changed since it was read",
    413: "the request is too large",
    415: "the body is of another kind than this takes",
    416: "the file has no such range",
    422: "a value is not legal",
    429: "too many tries: wait as long as Retry-After says",
    503: "the server cannot read or write its state now; try again",
}


class Place(BaseModel):
    """What is wrong where in a request."""

    place: str = Field(description="where in the request", examples=["body.run"])
    message: str = Field(description="what is wrong there", examples=["Field required"])


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(default="about:blank", description="always about:blank: the status says what kind it is")
    title: str = Field(description="the status in words", examples=["Not Found"])
    status: int = Field(description="the HTTP status", examples=[404])
    detail: str = Field(
        description="what was wrong with this request", examples=["there is no run 'x'; GET /api/v1/runs lists them"]
    )
    errors: list[Place] | None = Field(default=None, description="of a 422: every place that is known to be wrong")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route that may answer with these statuses, besides those that every route may."""
    return {status: {"model": Problem, "description": _WORDS[status]} for status in statuses}


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of `app` as a problem."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(FisherfleetError, _own_error)
    app.add_exception_handler(Exception, _unforeseen_error)


def status_of(error: Exception) -> int:
    """The HTTP status that an error is answered with."""
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, RequestValidationError):
        return 422
    return next((status for kind, status in _STATUS_OF.items() if isinstance(error, kind)), 500)


def answer(status: int, detail: str, errors: list[Place] | None = None) -> Response:
    """A problem as a response."""
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors)
    return Response(problem.model_dump_json(exclude_none=True), status, media_type=MEDIA_TYPE)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = answer(error.status_code, _plainly(error, request))
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return response


def _methods(request: Request) -> set[str]:
    """All methods of a path; Starlette names those of its first route only."""
    described: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    path = request.scope["path"]
    found: set[str] = set()
    for pattern, operations in described.items():
        if compile_path(pattern)[0].match(path):
            found |= {name.upper() for name in operations}
    return found


def _plainly(error: HTTPException, request: Request) -> str:
    if error.detail != HTTPStatus(error.status_code).phrase:
        return error.detail
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{request.method} is not for {request.url.path}; Allow says what is"
    return f"{request.url.path}: {_WORDS.get(error.status_code, error.detail)}"


async def _validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    places = [_place(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()[:_MOST_PLACES]]
    return answer(422, "; ".join(f"{one.place}: {one.message}" for one in places), places)


def _place(place: str, message: str) -> Place:
    return Place(place=place[:_LONGEST_PLACE], message=message[:_LONGEST_MESSAGE])


async def _own_error(request: Request, error: Exception) -> Response:
    status = status_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s %s: %s", request.method, request.url.path, error)
    field = error.field if isinstance(error, InvalidValueError) else ""
    response = answer(status, str(error), [_place(field, str(error))] if field else None)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = "1"
    return response


async def _unforeseen_error(request: Request, _error: Exception) -> Response:
    return answer(500, f"{request.method} {request.url.path} met a mistake of the server's; its log says more")

"""How devices come into the fleet: an operator makes a one-time token, the device shows it with its public keys.

What goes to the device is public. Its private keys are made on it and never leave it.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from math import ceil
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from pydantic import BaseModel, Field

from server.allowance import Allowance
from server.api.access import Caller, caller_of
from server.api.examples import shown
from server.api.guarded_route import guarded_router
from server.api.names import Identifier
from server.api.pages import Limit, Page, page_of
from server.api.problems import problems
from server.api.sources import Sources
from server.enrolments import MOST_DEVICES, MOST_HOURS, EnrolmentRecord, Offer
from server.errors import EnrolmentError, ProvisioningError
from server.fleet.authority_folder import AUTHORITY_CERTIFICATE
from server.fleet.durable_files import locked
from server.fleet.membership import Applicant, enrol_device, read_request
from wire_protocol.broker_url import parse_broker_url
from wire_protocol.enrolment import fingerprint
from wire_protocol.identity import PublicKeysText

logger = logging.getLogger(__name__)

_TRIES_A_SECOND, _TRIES_AT_ONCE = 0.5, 20
_ENROLMENT = {
    "id": 3,
    "devices": 5,
    "left": 5,
    "device": None,
    "broker": "mqtts://broker.local:8883",
    "created": 1764326400.0,
    "expires": 1764412800.0,
    "actor": "anna",
}
_VERIFYING = "2tsiQMc6tcyX4nicBLo+KmO/90L1dRtdZT4Z7Ohf9/w="
_SEALING = "HedSIqG/gHbccc9Z/eVM7UT7P3aP6habzRMtzNpviH4="
_REQUEST = """-----BEGIN CERTIFICATE REQUEST-----
MIHLMHQCAQAwEjEQMA4GA1UEAwwHa2l0Y2hlbjBZMBMGByqGSM49AgEGCCqGSM49
AwEHA0IABJmI2OMaiGj1uo6nTdkiV03JaLK8WcdA8cxN5P1/0U1libzFUeVxnk87
u/tmZLj2o+QLr4kH1Vu4KDSeBZPuypmgADAKBggqhkjOPQQDAgNHADBEAiAr2jUF
p3isb7i2OAhpnlVr++G0+6cnBOnXa7qHdneAywIgN5UnuCndCuV6sosyIbIBE0zl
q6NYsUvU4rDrsMZm4Nc=
-----END CERTIFICATE REQUEST-----
"""


class NewEnrolment(BaseModel):
    """What a token is to be for."""

    devices: int = Field(default=1, ge=1, le=MOST_DEVICES, description="how many it takes in", examples=[5])
    hours: float = Field(default=24.0, gt=0, le=MOST_HOURS, description="how long it lasts", examples=[24.0])
    device: Identifier | None = Field(default=None, description="only the device of this name", examples=[None])
    broker: str | None = Field(
        default=None,
        max_length=300,
        description="the broker's URL as devices reach it; null: as the server does",
        examples=["mqtts://broker.local:8883"],
    )


class MadeEnrolment(BaseModel):
    """A token that was made; its text is shown this once."""

    enrolment: EnrolmentRecord
    token: str = Field(description="for `fisherfleet-edge enrol --token`", examples=["ffe_Zkd1o0m2vW3xq8Jt.yB1kVw"])


class Enrol(BaseModel):
    """Who wants to be in the fleet."""

    token: str = Field(max_length=200, description="the token up to its point", examples=["ffe_Zkd1o0m2vW3xq8Jt"])
    device: Identifier = Field(description="the device's name", examples=["kitchen"])
    verifying: str = Field(max_length=64, description="its Ed25519 public key, base64", examples=[_VERIFYING])
    sealing: str = Field(max_length=64, description="its X25519 public key, base64", examples=[_SEALING])
    csr: str = Field(
        max_length=8192, description="PKCS #10 in PEM for a P-256 key, the name as common name", examples=[_REQUEST]
    )


class Enrolled(BaseModel):
    """What makes a device one of the fleet's."""

    certificate: str = Field(description="the device's certificate, PEM")
    authority: str = Field(description="the authority's certificate, PEM: it has signed the broker's, too")
    fleet: str = Field(description="the fleet file: its name and the operator's public keys, which the device pins")
    broker: str = Field(description="where the broker is", examples=["mqtts://broker.local:8883"])


def router(sources: Sources) -> APIRouter:
    """`/enrolments` for operators and `POST /enrol` for devices."""
    guarded = guarded_router(sources, "enrolment", reading="operator", keeps_replies=False)
    _add_tokens(guarded, sources)
    public = APIRouter(tags=["enrolment"])
    _add_enrol(public, sources, Allowance(_TRIES_A_SECOND, _TRIES_AT_ONCE, sources.steady))
    both = APIRouter()
    both.include_router(guarded)
    both.include_router(public)
    return both


def _add_tokens(routes: APIRouter, sources: Sources) -> None:
    enrolments = sources.store.enrolments

    @routes.get("/enrolments", responses=shown({"items": [_ENROLMENT], "next": None}))
    def list_enrolments(
        limit: Limit = 100,
        after: Annotated[int | None, Query(ge=1, le=2**53, description="`next` of the page before")] = None,
    ) -> Page[EnrolmentRecord]:
        """List enrolment tokens, the newest first; never their texts."""
        records = [record for record in enrolments.list() if after is None or record.id < after]
        return page_of(records[: limit + 1], limit, lambda record: record.id)

    @routes.post("/enrolments", status_code=201, responses=problems(409))
    def create_enrolment(
        new: NewEnrolment, caller: Annotated[Caller, Depends(caller_of)], response: Response
    ) -> MadeEnrolment:
        """Make a token with which devices enrol themselves. Its text is in this answer and nowhere else."""
        if new.broker is not None:
            parse_broker_url(new.broker)
        mark = fingerprint(*_public(sources))
        record, secret = enrolments.create(Offer(new.devices, new.hours, new.device, new.broker), caller.name)
        response.headers["Cache-Control"] = "no-store"
        return MadeEnrolment(enrolment=record, token=f"{secret}.{mark}")

    @routes.delete("/enrolments/{enrolment}", status_code=204, responses=problems(404))
    def withdraw_enrolment(enrolment: Annotated[int, Path(ge=1, le=2**53, description="its id", examples=[3])]) -> None:
        """Let a token take nobody in any more. May be repeated."""
        if not enrolments.withdraw(enrolment):
            raise HTTPException(404, f"there is no enrolment {enrolment}; GET /api/v1/enrolments lists those there are")


def _add_enrol(routes: APIRouter, sources: Sources, allowance: Allowance) -> None:
    @routes.post("/enrol", status_code=201, responses=problems(400, 403, 409, 422, 429, 503))
    def enrol(request: Request, wanted: Enrol, response: Response) -> Enrolled:
        """Take the device in that shows a token. The same device may ask again with the same keys."""
        address = request.client.host if request.client else ""
        if not allowance.take(address):
            wait = {"Retry-After": str(ceil(1 / _TRIES_A_SECOND))}
            raise HTTPException(429, f"{address} tries to enrol too often", wait)
        keys = PublicKeysText(wanted.verifying, wanted.sealing).read()
        applicant = Applicant(wanted.device, keys, read_request(wanted.device, wanted.csr))
        try:
            using = sources.store.enrolments.using(wanted.token, wanted.device, applicant.digest)
            with using as record, locked(sources.fleet.path):
                fleet, authority = _public(sources)
                certificate = enrol_device(sources.fleet, applicant, datetime.now(UTC))
        except EnrolmentError:
            logger.warning("%s has shown an enrolment token that opens nothing, as %s", address, wanted.device)
            raise
        made_by = f"enrolment {record.id} of {record.actor}"
        sources.store.events.add("device-enrolled", f"enrolled itself by {made_by}", device=wanted.device)
        response.headers["Cache-Control"] = "no-store"
        broker = record.broker or sources.broker
        return Enrolled(certificate=certificate.decode(), authority=authority, fleet=fleet, broker=broker)


def _public(sources: Sources) -> tuple[str, str]:
    """The fleet file and the authority's certificate; raises `ProvisioningError`."""
    try:
        authority = (sources.fleet.authority / AUTHORITY_CERTIFICATE).read_text()
        return sources.fleet.fleet_file.read_text(), authority
    except OSError as error:
        raise ProvisioningError(f"the fleet in {sources.fleet.path} cannot enrol: {error.strerror}") from error

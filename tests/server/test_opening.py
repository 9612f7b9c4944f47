from hashlib import sha256
from pathlib import Path

import pytest

from server.opening import open_update
from server.operator_keys import Operator
from server.registry import Enrolled, Registry, encode_registry
from server.screening import Refused
from server.uplink import Complete
from wire_protocol.envelope import Context, seal
from wire_protocol.identity import new_identity
from wire_protocol.topics import Part

OPERATOR, OLDER_OPERATOR, KITCHEN, OLDER_KITCHEN, ATTIC = (new_identity() for _ in range(5))
OPERATORS = Operator("home", (OPERATOR, OLDER_OPERATOR))
BODY = b"an update"
PART = Part("kitchen", "run", 3, 0)
CONTEXT = Context("update", "home", "run", 3, "kitchen")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    path = tmp_path / "devices.json"
    kitchen = Enrolled((KITCHEN.public, OLDER_KITCHEN.public))
    attic = Enrolled((ATTIC.public,), revoked=True)
    path.write_bytes(encode_registry({"kitchen": kitchen, "attic": attic}))
    return Registry.load(path)


def complete(payload: bytes, part: Part = PART) -> Complete:
    return Complete(part, sha256(payload).digest(), payload)


@pytest.mark.parametrize("signer", [KITCHEN, OLDER_KITCHEN])
@pytest.mark.parametrize("reader", [OPERATOR, OLDER_OPERATOR])
def test_an_update_by_any_valid_key_for_any_valid_key_opens(registry: Registry, signer: object, reader: object) -> None:
    payload = seal(BODY, CONTEXT, (signer,), reader.public)
    assert open_update(complete(payload), OPERATORS, registry) == BODY


@pytest.mark.parametrize(
    "context",
    [
        Context("update", "garden", "run", 3, "kitchen"),
        Context("update", "home", "other", 3, "kitchen"),
        Context("update", "home", "run", 2, "kitchen"),
        Context("update", "home", "run", 3, "attic"),
        Context("slice", "home", "run", 3, "kitchen"),
    ],
)
def test_an_update_of_anywhere_else_is_refused(registry: Registry, context: Context) -> None:
    payload = seal(BODY, context, (KITCHEN,), OPERATOR.public)
    verdict = open_update(complete(payload), OPERATORS, registry)
    assert verdict == Refused("the update cannot be opened: it was altered or belongs elsewhere", "not-opened")


def test_an_update_signed_by_someone_else_is_refused(registry: Registry) -> None:
    payload = seal(BODY, CONTEXT, (ATTIC,), OPERATOR.public)
    verdict = open_update(complete(payload), OPERATORS, registry)
    assert verdict == Refused("the update bears no valid signature of a trusted key", "not-opened")


def test_an_update_sealed_for_someone_else_is_refused(registry: Registry) -> None:
    payload = seal(BODY, CONTEXT, (KITCHEN,), ATTIC.public)
    verdict = open_update(complete(payload), OPERATORS, registry)
    assert verdict == Refused("the update is sealed for a key that is not known here", "not-opened")


def test_any_altered_byte_is_refused(registry: Registry) -> None:
    payload = seal(BODY, CONTEXT, (KITCHEN,), OPERATOR.public)
    for at in range(len(payload)):
        altered = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        assert isinstance(open_update(complete(altered), OPERATORS, registry), Refused), at
    assert isinstance(open_update(complete(b""), OPERATORS, registry), Refused)


def test_devices_that_are_unknown_or_revoked_are_refused_with_the_reason(registry: Registry) -> None:
    for device, reason in (("attic", "was revoked"), ("cellar", "is not enrolled")):
        context = Context("update", "home", "run", 3, device)
        payload = seal(BODY, context, (ATTIC,), OPERATOR.public)
        verdict = open_update(complete(payload, PART._replace(device=device)), OPERATORS, registry)
        assert isinstance(verdict, Refused)
        assert f"device {device} {reason}" in verdict.reason

"""Envelopes, keys and key files keep their bytes: `tests/golden` holds them, `docs/wire-protocol.md` shows them.

Sealing is randomised, so a golden sealed message is one that must open. To write the files anew, after a change of the
protocol: `FISHERFLEET_WRITE_GOLDEN=1 pytest tests/wire_protocol/test_golden_envelopes.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.golden_fleet import DEVICE, FLEET, GOLDEN, KITCHEN, OLD_OPERATOR, OPERATOR, ROUND, RUN, identity
from wire_protocol.envelope import Context, open_sealed, seal, sign, verify
from wire_protocol.errors import ProtocolError
from wire_protocol.identity import Fleet, encode_fleet, load_fleet, load_identities, save_identities

NAMES = {"operator": OPERATOR, "device": KITCHEN, "old_operator": OLD_OPERATOR}
OPERATORS = (identity(OPERATOR), identity(OLD_OPERATOR))
SIGNED = {
    "signed_plan": ("plan", Context("plan", FLEET, RUN), OPERATORS[:1]),
    "signed_need": ("need", Context("need", FLEET, device=DEVICE), OPERATORS),
    "signed_receipt": ("receipt", Context("receipt", FLEET, device=DEVICE), OPERATORS),
}
SEALED = {
    "sealed_slice": ("slice", Context("slice", FLEET, RUN, ROUND, DEVICE), OPERATORS[:1], identity(KITCHEN)),
    "sealed_update": ("update", Context("update", FLEET, RUN, ROUND, DEVICE), (identity(KITCHEN),), OPERATORS[0]),
}


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def described() -> bytes:
    """All keys in hexadecimal."""
    keys = {
        name: {
            "signing": identity(number).signing.private_bytes_raw().hex(),
            "verifying": identity(number).public.verifying.hex(),
            "opening": identity(number).opening.private_bytes_raw().hex(),
            "sealing": identity(number).public.sealing.hex(),
            "key_id": identity(number).public.key_id.hex(),
        }
        for name, number in NAMES.items()
    }
    return json.dumps(keys, indent=1).encode() + b"\n"


@pytest.mark.skipif("FISHERFLEET_WRITE_GOLDEN" not in os.environ, reason="only where the protocol has changed")
def test_write_golden_files() -> None:
    (GOLDEN / "identities.json").write_bytes(described())
    (GOLDEN / "fleet.json").write_bytes(encode_fleet(Fleet(FLEET, tuple(one.public for one in OPERATORS))))
    save_identities(GOLDEN / "device.key", [identity(KITCHEN)])
    for name, (body, context, signers) in SIGNED.items():
        (GOLDEN / f"{name}.bin").write_bytes(sign(golden(f"{body}.bin"), context, signers))
    for name, (body, context, signers, reader) in SEALED.items():
        (GOLDEN / f"{name}.bin").write_bytes(seal(golden(f"{body}.bin"), context, signers, reader.public))


def test_keys_have_these_bytes() -> None:
    assert golden("identities.json") == described()


def test_key_and_fleet_files_have_these_bytes(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    save_identities(path, [identity(KITCHEN)])
    assert path.read_bytes() == golden("device.key")
    path.write_bytes(golden("device.key"))
    assert [one.public for one in load_identities(path)] == [identity(KITCHEN).public]
    fleet = Fleet(FLEET, tuple(one.public for one in OPERATORS))
    assert encode_fleet(fleet) == golden("fleet.json")
    assert load_fleet(GOLDEN / "fleet.json") == fleet


@pytest.mark.parametrize("name", SIGNED)
def test_signed_messages_have_these_bytes(name: str) -> None:
    body, context, signers = SIGNED[name]
    assert sign(golden(f"{body}.bin"), context, signers) == golden(f"{name}.bin")
    for signer in signers:
        assert verify(golden(f"{name}.bin"), context, [signer.public]) == golden(f"{body}.bin")


@pytest.mark.parametrize("name", SEALED)
def test_sealed_messages_open(name: str) -> None:
    body, context, signers, reader = SEALED[name]
    trusted = [signer.public for signer in signers]
    assert open_sealed(golden(f"{name}.bin"), context, [reader], trusted) == golden(f"{body}.bin")
    with pytest.raises(ProtocolError):
        open_sealed(golden(f"{name}.bin"), Context(context.kind, FLEET, RUN, ROUND + 1, DEVICE), [reader], trusted)


def test_contexts_have_the_bytes_of_the_document() -> None:
    page = (Path(__file__).parents[2] / "docs" / "wire-protocol.md").read_text()
    for _, context, *_ in (*SIGNED.values(), *SEALED.values()):
        assert f"| `{context.encoded().hex()}` |" in page

"""What keeps a broker out: messages signed by who sends them and, where they hold values, sealed for who reads them.

`sign` makes a `Signed` message: the body and Ed25519 signatures (RFC 8032) over context and body, one by each valid key
of the sender, so that a reader who knows any of them can check. `seal` puts a `Signed` message inside HPKE (RFC 9180,
base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305) with the context as `info`. The context says
what the message is, in which fleet, for which run, round and device: it is not sent, so a message means nothing
anywhere else. Reading is total: the body, or `ProtocolError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from wire_protocol.errors import ProtocolError
from wire_protocol.identity import MOST_VALID, Identity, PublicKeys
from wire_protocol.messages import Message, decode, encode

Kind = Literal[
    "plan", "need", "receipt", "slice", "update", "want", "file", "release", "release-offer", "model", "report"
]

SIGNED_OVERHEAD = 256
"""Bytes that `sign` adds at most."""
SEALED_OVERHEAD = 384
"""Bytes that `seal` adds at most."""

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_DOMAIN = "fisherfleet"


@dataclass(frozen=True)
class Context:
    """What a message is and whom it concerns; what its kind does not know beforehand stays empty.

    `plan` and `model` know fleet and run; `need`, `receipt`, `want`, `release-offer` and `report` fleet and device;
    `release` the fleet; `slice` and `update` all of them.
    """

    kind: Kind
    fleet: str
    run: str = ""
    round: int = 0
    device: str = ""

    def encoded(self) -> bytes:
        """MessagePack array of a constant and the fields in order."""
        return msgspec.msgpack.encode((_DOMAIN, *astuple(self)))


class Signature(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """By which key, and 64 bytes of Ed25519."""

    key_id: bytes
    signature: bytes


class Signed(Message, frozen=True, tag="signed"):
    """A body that anyone can read and only the sender could write."""

    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(max_length=MOST_VALID)]
    body: bytes


class Sealed(Message, frozen=True, tag="sealed"):
    """`content` is the encapsulated key and the ciphertext of HPKE; `key_id` tells the reader which key opens it."""

    key_id: bytes
    content: bytes


def sign(body: bytes, context: Context, signers: Sequence[Identity]) -> bytes:
    """An encoded `Signed` message with a signature of each signer."""
    covered = context.encoded() + body
    signatures = tuple(Signature(signer.public.key_id, signer.signing.sign(covered)) for signer in signers)
    return encode(Signed(signatures=signatures, body=body))


def verify(payload: bytes, context: Context, trusted: Sequence[PublicKeys]) -> bytes:
    """The body of a `Signed` message that one of the trusted keys signed; raises `ProtocolError`."""
    signed = decode(payload, Signed)
    known = {keys.key_id: keys for keys in trusted}
    covered = context.encoded() + signed.body
    for signature in signed.signatures:
        keys = known.get(signature.key_id)
        if keys is not None and _is_valid(keys, signature.signature, covered):
            return signed.body
    raise ProtocolError(f"the {context.kind} bears no valid signature of a trusted key")


def seal(body: bytes, context: Context, signers: Sequence[Identity], recipient: PublicKeys) -> bytes:
    """An encoded `Sealed` message; no two are equal."""
    content = _SUITE.encrypt(sign(body, context, signers), recipient.seal_key, context.encoded())
    return encode(Sealed(key_id=recipient.key_id, content=content))


def open_sealed(
    payload: bytes, context: Context, recipients: Sequence[Identity], trusted: Sequence[PublicKeys]
) -> bytes:
    """The body of a `Sealed` message for one of the recipients by a trusted sender; raises `ProtocolError`."""
    return verify(_unsealed(decode(payload, Sealed), context, recipients), context, trusted)


def _unsealed(sealed: Sealed, context: Context, recipients: Sequence[Identity]) -> bytes:
    reader = next((reader for reader in recipients if reader.public.key_id == sealed.key_id), None)
    if reader is None:
        raise ProtocolError(f"the {context.kind} is sealed for a key that is not known here")
    try:
        return _SUITE.decrypt(sealed.content, reader.opening, context.encoded())
    except (InvalidTag, ValueError) as error:
        raise ProtocolError(f"the {context.kind} cannot be opened: it was altered or belongs elsewhere") from error


def _is_valid(keys: PublicKeys, signature: bytes, covered: bytes) -> bool:
    try:
        keys.verify_key.verify(signature, covered)
    except InvalidSignature:
        return False
    return True

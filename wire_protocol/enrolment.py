"""What an enrolment token is made of: a secret that the server knows the hash of, and what the device will be sent.

    ffe_SECRET.FINGERPRINT

The fingerprint is of the fleet file and the authority's certificate, so a device that was given the token by hand takes
no other operator and no other authority, even where the answer came over a network that cannot be trusted.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256

from wire_protocol.errors import InvalidValueError

PREFIX = "ffe_"
_FINGERPRINT_BYTES = 16


def fingerprint(fleet: str, authority: str) -> str:
    """22 characters of base64url that stand for a fleet file's and an authority's certificate's text."""
    digest = sha256(sha256(fleet.encode()).digest() + sha256(authority.encode()).digest()).digest()
    return urlsafe_b64encode(digest[:_FINGERPRINT_BYTES]).decode().rstrip("=")


def split_token(token: str) -> tuple[str, str]:
    """The secret, with its prefix, and the fingerprint; raises `InvalidValueError` without repeating the token."""
    secret, _, mark = token.partition(".")
    if not secret.startswith(PREFIX) or not mark:
        raise InvalidValueError(f"token must be {PREFIX}SECRET.FINGERPRINT, as `devices enrol-token` printed it")
    return secret, mark

"""What an error of a TLS connection means, in plain words: OpenSSL's own are for those who know it by heart.

Two kinds: what we found wrong with the other end's certificate (verification codes, openssl-verification-options(1)),
and what the other end found wrong with ours (alerts, RFC 8446, section 6).
"""

from __future__ import annotations

import ssl
import time

from edge_client.plan_clock import was_set

_VERIFICATION = {
    9: "{peer}'s certificate is not valid yet, or this device's clock is wrong",
    10: "{peer}'s certificate has expired, or this device's clock is wrong",
    18: "{peer}'s certificate is signed by itself and not by the authority trusted here (ca.pem)",
    19: "{peer}'s certificate is not from the authority trusted here (ca.pem)",
    20: "{peer}'s certificate is not from the authority trusted here (ca.pem)",
    21: "{peer}'s certificate is not from the authority trusted here (ca.pem)",
    23: "{peer}'s certificate was revoked",
    62: "{peer}'s certificate is for another host name",
    64: "{peer}'s certificate is for another IP address",
}
_OF_TIME = (9, 10)
_ALERTS = {
    "CERTIFICATE_REQUIRED": "{peer} wants a certificate of this device (tls.pem and tls.key), which has none",
    "CERTIFICATE_REVOKED": "{peer} says that this device's certificate (tls.pem) was revoked",
    "CERTIFICATE_EXPIRED": "{peer} says that this device's certificate (tls.pem) has expired",
    "UNKNOWN_CA": "{peer} does not know the authority that signed this device's certificate (tls.pem)",
    "BAD_CERTIFICATE": "{peer} does not take this device's certificate (tls.pem)",
    "CERTIFICATE_UNKNOWN": "{peer} does not take this device's certificate (tls.pem)",
    "ACCESS_DENIED": "{peer} does not let this device in",
    "HANDSHAKE_FAILURE": "{peer} wants TLS in another way, or a certificate of this device",
    "PROTOCOL_VERSION": "{peer} speaks another version of TLS",
    "WRONG_VERSION_NUMBER": "{peer} does not speak TLS on this port",
    "HTTP_REQUEST": "{peer} does not speak TLS on this port",
    "UNEXPECTED_EOF": "{peer} hung up: it may not speak TLS on this port",
    "RECORD_LAYER_FAILURE": "{peer} does not speak TLS on this port",
}


def explain(error: BaseException, peer: str, wall: float | None = None) -> str:
    """The error's text, and before it what it means where that is known; `peer` says who is at the other end, `wall`
    what this device's clock shows (Unix time), None for what it shows now.
    """
    cause = _tls_error(error)
    if cause is None:
        return str(error) or type(error).__name__
    if isinstance(cause, ssl.SSLCertVerificationError):
        words = _VERIFICATION.get(cause.verify_code, "{peer}'s certificate cannot be trusted")
        if cause.verify_code in _OF_TIME and not was_set(time.time() if wall is None else wall):
            words = "{peer}'s certificate cannot be judged before this device's clock is set"
    else:
        reason = cause.reason or ("UNEXPECTED_EOF" if isinstance(cause, ssl.SSLEOFError) else "")
        words = next((words for name, words in _ALERTS.items() if name in reason), "TLS with {peer} failed")
    return f"{words.format(peer=peer)}: {cause.reason or cause}"


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The TLS error behind an error that libraries wrapped."""
    seen: set[int] = set()
    behind: BaseException | None = error
    while behind is not None and id(behind) not in seen:
        if isinstance(behind, ssl.SSLError):
            return behind
        seen.add(id(behind))
        reason = getattr(behind, "reason", None)
        behind = reason if isinstance(reason, BaseException) else behind.__cause__ or behind.__context__
    return None

"""Can the broker be reached: name, port, TLS, both sides' certificates, and does it let us in.

OpenSSL's verify codes are those of `X509_verify_cert_error_string`, the names of alerts those of RFC 8446, section 6.2.
"""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509

from devices.doctor.raw_connection import RefusedError, broker_certificate, pending_alert, raw_connection
from devices.doctor.seats import Seat
from edge_client.findings import Finding
from server.fleet.certificates import common_name, hosts_of

NEAR_END = timedelta(days=30)

_EXPIRED, _NOT_YET_VALID, _HOST_MISMATCH, _ADDRESS_MISMATCH = 10, 9, 62, 64
_CONNACK = {
    1: ("it does not speak MQTT 3.1.1", "choose a broker that does"),
    2: (
        "it refuses the client id",
        "let every client id of letters, digits, - and _ connect (EMQX, AWS IoT: it must be the certificate's name)",
    ),
    3: ("it says it is unavailable", "look into the broker's log"),
    4: ("user or password is wrong", "give them in the URL, or the password in FISHERFLEET_MQTT_PASSWORD"),
    5: ("it lets this user not connect", "give the right user and password, or --fleet or --identity"),
}
_ALERTS = (
    ("CERTIFICATE_REVOKED", "this client's certificate was revoked", "fisherfleet fleet list says which are"),
    (
        "CERTIFICATE_EXPIRED",
        "this client's certificate has ended",
        "fisherfleet fleet renew, then copy what it names; compare the broker's clock",
    ),
    (
        "UNKNOWN_CA",
        "the broker does not know the authority that signed this client's certificate",
        "give the broker ca.pem of this fleet (mosquitto: cafile)",
    ),
    (
        "CERTIFICATE_REQUIRED",
        "the broker wants a certificate and got none",
        "give --fleet or --identity",
    ),
    (
        "HANDSHAKE_FAILURE",
        "the broker and this client have no TLS in common, or it wants a certificate and got none",
        "give --fleet or --identity; allow TLS 1.2 and 1.3 at the broker",
    ),
    (
        "BAD_CERTIFICATE",
        "the broker does not take this client's certificate",
        "look into the broker's log; compare its clock",
    ),
    (
        "WRONG_VERSION_NUMBER",
        "what listens there does not speak TLS",
        "use mqtt:// or the port of the broker's TLS listener (often 8883)",
    ),
)


async def examine_reach(seat: Seat, seconds: float, now: datetime | None = None) -> list[Finding]:
    """Findings about the way to the broker; one of them is bad where no client gets in."""
    now = now or datetime.now(UTC)
    if seat.certificate_ends is not None and seat.certificate_ends < now:
        ended = seat.certificate_ends.date()
        return [
            Finding(
                "certificate",
                "bad",
                f"the certificate of {seat.name} ended on {ended}",
                f"fisherfleet fleet renew FOLDER {seat.name}, then copy what it names",
            )
        ]
    try:
        async with raw_connection(seat, seconds):
            pass
    except (OSError, RefusedError, TimeoutError, UnicodeError) as error:
        return [await _explain(seat, seconds, error)]
    findings = [] if seat.tls is None else [await _good_tls(seat, seconds, now)]
    return [*findings, Finding("connection", "good", f"{seat.broker} takes {seat.name} over MQTT 3.1.1")]


async def _good_tls(seat: Seat, seconds: float, now: datetime) -> Finding:
    content = await broker_certificate(seat, seconds)
    if content is None:
        return Finding("TLS", "unknown", "the broker's certificate is right, its dates could not be read")
    certificate = x509.load_der_x509_certificate(content)
    end = certificate.not_valid_after_utc
    text = f"the broker's certificate is right and valid until {end.date()}"
    if end - now < NEAR_END:
        return Finding("TLS", "weak", text, "renew it soon: fisherfleet fleet renew FOLDER, copy tls.pem to the broker")
    return Finding("TLS", "good", text)


async def _explain(seat: Seat, seconds: float, error: Exception) -> Finding:
    if seat.tls is not None and isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError):
        error = await pending_alert(seat, seconds) or error
    if isinstance(error, ssl.SSLCertVerificationError):
        return await _explain_certificate(seat, seconds, error)
    if isinstance(error, ssl.SSLError):
        return _explain_alert(error)
    if isinstance(error, RefusedError):
        text, advice = _CONNACK.get(error.code, ("its answer is not MQTT", "is this the port of an MQTT broker?"))
        return Finding("connection", "bad", f"{seat.broker} answers, but {text}", advice)
    if isinstance(error, (socket.gaierror, UnicodeError)):
        text, advice = f"the name {seat.broker.host} is not known here", "check the name, or give the address"
    elif isinstance(error, ConnectionRefusedError):
        text, advice = f"nothing listens on {seat.broker}", "start the broker; check port and listener"
    elif isinstance(error, TimeoutError):
        text = f"{seat.broker} did not answer within {seconds:g} s"
        advice = "check address, port and firewall; a port for TLS needs mqtts://"
    elif seat.tls is None:
        text = f"{seat.broker} closes the connection ({error})"
        advice = "a port for TLS needs mqtts://, and --fleet or --identity"
    else:
        text = f"{seat.broker} closes the connection ({error})"
        advice = "look into the broker's log: it may refuse this certificate, or not speak TLS on this port"
    return Finding("connection", "bad", text, advice)


async def _explain_certificate(seat: Seat, seconds: float, error: ssl.SSLCertVerificationError) -> Finding:
    content = await broker_certificate(seat, seconds)
    certificate = x509.load_der_x509_certificate(content) if content else None
    today = datetime.now(UTC).date()
    if error.verify_code == _EXPIRED:
        when = f" on {certificate.not_valid_after_utc.date()}" if certificate else ""
        text = f"the broker's certificate ended{when}"
        advice = (
            "fisherfleet fleet renew FOLDER broker, copy tls.pem to the broker and reload it; "
            f"or this clock is wrong, it says {today}"
        )
    elif error.verify_code == _NOT_YET_VALID:
        text = f"the broker's certificate is not valid yet, and this clock says {today}"
        advice = "set this machine's clock"
    elif error.verify_code in (_HOST_MISMATCH, _ADDRESS_MISMATCH):
        names = ", ".join(hosts_of(certificate)) or common_name(certificate) if certificate else "other hosts"
        text = f"the broker's certificate is for {names}, not for {seat.broker.host}"
        advice = f"use one of these, or: fisherfleet fleet init FOLDER --host {seat.broker.host}, copy broker/ again"
    else:
        text = f"the broker's certificate was not signed by the authority trusted here ({error.verify_message})"
        advice = "give the broker tls.pem and tls.key of this fleet's broker/, or the right --fleet or --ca-file"
    return Finding("TLS", "bad", text, advice)


def _explain_alert(error: ssl.SSLError) -> Finding:
    reason = error.reason or str(error)
    for name, text, advice in _ALERTS:
        if name in reason:
            return Finding("TLS", "bad", text, advice)
    return Finding("TLS", "bad", f"TLS fails: {reason}", "look into the broker's log")

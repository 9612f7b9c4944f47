"""The authority's certificates, judged by OpenSSL and by TLS handshakes."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from server.fleet.certificates import (
    Subject,
    Validity,
    common_name,
    decode_key,
    encode_certificate,
    encode_key,
    hosts_of,
    new_authority,
    new_key,
)
from wire_protocol.errors import InvalidValueError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AUTHORITY = new_authority("Fisherfleet home", new_key(), Validity.lasting(1000, NOW))


def issue(subject: Subject, days: float = 100) -> x509.Certificate:
    return AUTHORITY.issue(subject, new_key().public_key(), Validity.lasting(days, NOW))


def openssl_verify(folder: Path, certificate: x509.Certificate, *options: str, authority=AUTHORITY) -> str:
    (folder / "ca.pem").write_bytes(encode_certificate(authority.certificate))
    (folder / "leaf.pem").write_bytes(encode_certificate(certificate))
    command = ["openssl", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp())), "-CAfile", folder / "ca.pem"]
    done = subprocess.run([*command, *options, folder / "leaf.pem"], capture_output=True, text=True, check=False)
    return "OK" if done.returncode == 0 else done.stderr


@pytest.mark.parametrize(
    ("subject", "purpose", "other"),
    [
        (Subject("kitchen"), "sslclient", "sslserver"),
        (Subject("broker", ("broker.local", "192.168.1.10", "::1")), "sslserver", "sslclient"),
    ],
)
def test_openssl_takes_a_certificate_for_its_purpose_only(subject, purpose, other, tmp_path):
    certificate = issue(subject)
    assert openssl_verify(tmp_path, certificate, "-purpose", purpose) == "OK"
    assert "purpose" in openssl_verify(tmp_path, certificate, "-purpose", other)
    assert (common_name(certificate), hosts_of(certificate)) == (subject.name, subject.hosts)


def test_another_authority_of_the_same_name_is_not_believed(tmp_path):
    certificate = issue(Subject("kitchen"))
    twin = new_authority("Fisherfleet home", new_key(), Validity.lasting(1000, NOW))
    assert "error" in openssl_verify(tmp_path, certificate, authority=twin)
    assert AUTHORITY.has_issued(certificate)
    assert not twin.has_issued(certificate)


def test_a_revoked_serial_number_is_refused_and_no_other(tmp_path):
    lost, kept = issue(Subject("lost")), issue(Subject("kept"))
    (tmp_path / "crl.pem").write_bytes(AUTHORITY.revocation_list({lost.serial_number: NOW}, 1, NOW))
    options = ("-crl_check", "-CRLfile", str(tmp_path / "crl.pem"))
    assert "certificate revoked" in openssl_verify(tmp_path, lost, *options)
    assert openssl_verify(tmp_path, kept, *options) == "OK"


@pytest.mark.parametrize(
    ("updated", "at", "verdict"),
    [(-1, 0, "OK"), (1, 0, "CRL is not yet valid"), (-1, 999, "OK"), (-1, 1001, "expired")],
)
def test_openssl_refuses_everybody_before_a_lists_date_and_after_its_next_update(updated, at, verdict, tmp_path):
    """Why lists are dated back, and due when the authority ends."""
    (tmp_path / "crl.pem").write_bytes(AUTHORITY.revocation_list({}, 1, NOW + timedelta(days=updated)))
    when = str(int((NOW + timedelta(days=at)).timestamp()))
    options = ("-attime", when, "-crl_check", "-CRLfile", str(tmp_path / "crl.pem"))
    assert verdict in openssl_verify(tmp_path, issue(Subject("a"), days=5000), *options)


def test_a_certificate_ends_as_told_and_never_after_its_authority():
    assert issue(Subject("a"), days=100).not_valid_after_utc == NOW + timedelta(days=100)
    assert issue(Subject("a"), days=5000).not_valid_after_utc == AUTHORITY.certificate.not_valid_after_utc
    assert issue(Subject("a")).not_valid_before_utc < NOW


def test_a_key_file_reads_back_and_other_keys_are_refused():
    key = new_key()
    assert decode_key(encode_key(key)).private_numbers() == key.private_numbers()
    with pytest.raises(ValueError, match=r"PEM|deserialize|key"):
        decode_key(b"nothing")


@pytest.mark.parametrize("host", ["", "a b", "-a", "*.local", "a..b", "http://a", "a:1883", "a\n", "x" * 254])
def test_what_is_no_host_is_refused(host):
    with pytest.raises(InvalidValueError, match="host must be a host name or an IP address"):
        Subject("broker", (host,))


def test_nothing_secret_is_shown():
    assert repr(AUTHORITY) == "Authority('Fisherfleet home')"

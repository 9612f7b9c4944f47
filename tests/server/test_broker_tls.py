"""The server's TLS towards its broker, from a fleet's folder."""

import ssl
from datetime import UTC, datetime

import pytest

from server.broker_tls import broker_tls
from server.errors import LinkError
from server.fleet.fleet_folder import create_fleet
from wire_protocol.identity import IdentityError


@pytest.fixture
def fleet(tmp_path):
    return create_fleet(tmp_path / "home", "home", (), datetime.now(UTC)).path


def authorities(context: ssl.SSLContext) -> set[str]:
    return {name["subject"][0][0][1] for name in context.get_ca_certs()}


def test_a_fleets_own_authority_is_the_only_one_trusted(fleet, tmp_path):
    assert authorities(broker_tls(fleet, None)) == {"Fisherfleet home"}
    other = create_fleet(tmp_path / "other", "other", (), datetime.now(UTC)).path
    assert authorities(broker_tls(fleet, other / "server/ca.pem")) == {"Fisherfleet other"}


def test_without_a_fleet_the_systems_authorities_are_trusted(tmp_path):
    assert broker_tls(tmp_path, None).verify_mode == ssl.CERT_REQUIRED


def test_what_cannot_be_used_is_named(fleet, tmp_path):
    with pytest.raises(LinkError, match=r"ca_file .*nothing cannot be used"):
        broker_tls(fleet, tmp_path / "nothing")
    (fleet / "server/tls.pem").write_bytes((fleet / "broker/tls.pem").read_bytes())
    with pytest.raises(LinkError, match="cannot be used together"):
        broker_tls(fleet, None)
    (fleet / "server/tls.key").chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        broker_tls(fleet, None)

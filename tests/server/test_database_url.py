from pathlib import Path

import pytest

from server.database_url import parse_database_url, shown_database, sqlite_url
from wire_protocol.errors import InvalidValueError


def test_a_postgresql_is_reached_by_one_driver_however_it_is_spelled() -> None:
    spelled = [
        parse_database_url(f"{scheme}://me:s%40cret@db:5433/fleet") for scheme in ("postgresql", "postgresql+psycopg")
    ]
    assert spelled[0] == spelled[1]
    assert (spelled[0].password, spelled[0].port) == ("s@cret", 5433)
    assert shown_database(spelled[0]) == "postgresql+psycopg://me:***@db:5433/fleet"


def test_a_sqlite_file_is_shown_as_its_path() -> None:
    url = parse_database_url("sqlite:////var/lib/fleet.sqlite")
    assert url == sqlite_url(Path("/var/lib/fleet.sqlite"))
    assert shown_database(url) == "/var/lib/fleet.sqlite"


@pytest.mark.parametrize(
    "text",
    [
        "fleet.sqlite",
        "mysql://me:secret@db/fleet",
        "postgresql+asyncpg://me:secret@db/fleet",
        "postgresql://me:secret@db",
        "postgresql://me:secret@db:port/fleet",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_what_is_no_database_is_refused_and_no_password_shown(text: str) -> None:
    with pytest.raises(InvalidValueError, match="database must be sqlite:////path") as caught:
        parse_database_url(text)
    assert "secret" not in str(caught.value)

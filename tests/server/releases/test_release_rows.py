import pytest
from msgspec.structs import replace

from server.database import Database
from server.errors import ConflictError, UnknownReleaseError
from server.releases.release_rows import ReleaseRows
from server.releases.rollout import Rollout
from tests.server.releases.release_files import a_release, signed
from wire_protocol.releases import MAX_RELEASES, ReleaseReport


@pytest.fixture
def rows(tmp_path, database_url):
    database = Database(database_url)
    yield ReleaseRows(database, tmp_path / "releases", lambda: 5.0)
    database.close()


def test_releases_are_kept_with_their_archives(rows, fleet):
    first, other = a_release(), a_release(system="bookworm", content=b"other")
    for release, content in ((first, b"packages"), (other, b"other"), (first, b"packages")):
        record = rows.add(signed(fleet.operator, release), content)
        assert rows.archives.content_of(record.sha256) == content
    assert {one.system for one in rows.releases()} == {"trixie", "bookworm"}
    assert rows.signed("0.2.0") == (signed(fleet.operator, other).signed, signed(fleet.operator, first).signed)
    assert rows.signed("0.3.0") == ()
    anew = a_release(content=b"anew")
    rows.add(signed(fleet.operator, anew), b"anew")
    assert anew.sha256 in {one.sha256 for one in rows.releases()}
    assert len(rows.releases()) == 2


def test_a_version_has_so_many_systems(rows, fleet):
    for number in range(MAX_RELEASES):
        rows.add(signed(fleet.operator, a_release(system=f"system-{number}")), b"packages")
    with pytest.raises(ConflictError, match="is there for 8 systems already"):
        rows.add(signed(fleet.operator, a_release(system="one-more")), b"packages")
    assert len(rows.releases()) == MAX_RELEASES


def test_rollouts_are_ordered_and_halted(rows, fleet):
    with pytest.raises(UnknownReleaseError, match="there is no release"):
        rows.roll_out(Rollout("0.2.0"), "kim")
    rows.add(signed(fleet.operator, a_release()), b"packages")
    first = rows.roll_out(Rollout("0.2.0", devices=("a", "b"), fraction=0.5), "kim")
    second = rows.roll_out(Rollout("0.2.0", tag="pi"), "kim")
    third = rows.roll_out(Rollout("0.2.0"), "kim", again=True)
    assert [one.rollout.attempt for one in (first, second, third)] == [1, 1, 2]
    assert rows.rollouts() == (third, second, first)
    assert rows.halt(second.id, "no good").status == "halted"
    assert rows.halt(second.id, "again").reason == "no good"
    with pytest.raises(UnknownReleaseError, match="there is no rollout 99"):
        rows.halt(99, "x")


def test_the_last_report_of_each_device_is_remembered(rows):
    report = ReleaseReport(version="0.1.0", offered="0.2.0", attempt=1, status="fetching", models={"digits": 3})
    rows.note_reports({"a": report, "b": report})
    rows.note_reports({"a": replace(report, status="failed", reason="no link")})
    rows.note_reports({})
    assert [(one.device, one.status, one.reason) for one in rows.reports()] == [
        ("a", "failed", "no link"),
        ("b", "fetching", ""),
    ]
    assert rows.reports()[1].models == {"digits": 3}

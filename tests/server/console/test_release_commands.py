import pytest

from devices.command_line import main
from tests.server.releases.release_files import a_release, release_file
from wire_protocol.releases import ReleaseReport


async def test_a_release_is_offered_from_the_command_line(typed, read, store, tmp_path, fleet) -> None:
    files = [
        str(release_file(tmp_path, fleet.operator, a_release(system=system, content=content), content))
        for system, content in (("trixie", b"one"), ("bookworm", b"two"))
    ]
    status, text, _ = await typed("devices", "update", *files, "--fraction", "0.5")
    assert (status, text.splitlines()[0]) == (0, "update 1: release 0.2.0 is offered to 6 devices, first to 3")
    again = await read("devices", "update", "0.2.0", "--devices", "a", "b", "--again")
    assert (again["attempt"], again["devices"]) == (2, ["a", "b"])
    store.releases.note_reports(
        {"a": ReleaseReport(version="0.2.0", offered="0.2.0", attempt=2, status="confirmed", models={"digits": 7})}
    )
    text = (await typed("devices", "updates"))[1]
    assert "a, b" in text
    assert "digits 7" in text
    shown = await read("devices", "updates")
    assert [one["confirmed"] for one in shown["updates"]] == [1, 0]
    text = (await typed("devices", "halt-update", "2"))[1]
    assert text == "release 0.2.0 is offered no longer; 1 devices keep it\n"


@pytest.mark.parametrize(
    ("option", "value", "legal"),
    [
        ("--fraction", "3", "above 0 and at most 1"),
        ("--fraction", "0", "above 0 and at most 1"),
        ("--fraction", "half", "above 0 and at most 1"),
        ("--halt-at", "nan", "0 to 1"),
        ("--halt-at", "1.5", "0 to 1"),
    ],
)
def test_a_share_out_of_range_is_refused_before_anything_is_sent(option, value, legal, capsys) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["devices", "update", "0.2.0", option, value])
    assert refused.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: argument {option}: must be {legal}, got {value!r}\n")


async def test_an_offer_may_halt_at_the_first_failure(read, tmp_path, fleet) -> None:
    file = str(release_file(tmp_path, fleet.operator, a_release()))
    assert (await read("devices", "update", file, "--halt-at", "0", "--fraction", "1"))["halt_at"] == 0


async def test_files_of_two_versions_are_refused(typed, tmp_path, fleet) -> None:
    files = [str(release_file(tmp_path, fleet.operator, a_release(version))) for version in ("0.2.0", "0.3.0")]
    status, _, complaint = await typed("devices", "update", *files)
    assert status == 2
    assert "must be of one version, got 0.2.0, 0.3.0" in complaint


async def test_whom_an_offer_reaches_nobody_of_is_said(typed, tmp_path, fleet) -> None:
    file = str(release_file(tmp_path, fleet.operator, a_release()))
    status, _, complaint = await typed("devices", "update", file, "--devices", "a", "nosuch")
    assert (status, "not enrolled: 'nosuch'" in complaint) == (2, True)
    later = "no enrolled device has the tag 'attic' now; those that get it later are offered it within an hour\n"
    status, text, _ = await typed("devices", "update", "0.2.0", "--tag", "attic")
    assert (status, later in text) == (0, True)
    await typed("devices", "tag", "a", "attic")
    assert later not in (await typed("devices", "update", "0.2.0", "--tag", "attic"))[1]


async def test_a_file_that_is_no_release_is_named(typed, tmp_path, fleet) -> None:
    good, other = release_file(tmp_path, fleet.operator, a_release()), tmp_path / "manifest.json"
    other.write_text("{}")
    status, _, complaint = await typed("devices", "update", str(good), str(other))
    assert (status, f"{other} was not taken: not a release of this fleet" in complaint) == (2, True)

import tarfile

import pytest

from server.errors import ReleaseError
from server.releases.release_file import read_release_file
from tests.server.releases.release_files import a_release, release_file, signed
from wire_protocol.identity import new_identity


def read(path, fleet, name: str = "fleet"):
    return read_release_file(path, name, fleet.public.operator)


def test_what_was_written_is_read(tmp_path, fleet):
    assert read(release_file(tmp_path, fleet.operator, a_release()), fleet) == (
        signed(fleet.operator, a_release()),
        b"packages",
    )


def test_another_archive_fleet_or_signer_is_refused(tmp_path, fleet):
    path = release_file(tmp_path, fleet.operator, a_release())
    with pytest.raises(ReleaseError, match="no valid signature"):
        read(path, fleet, "another")
    with pytest.raises(ReleaseError, match="no valid signature"):
        read_release_file(path, "fleet", [new_identity().public])
    for content in (b"packagez", b"package"):
        with pytest.raises(ReleaseError, match="not the one that was signed"):
            read(release_file(tmp_path, fleet.operator, a_release(), content), fleet)
    with pytest.raises(ReleaseError, match="a member archive of at most 8 bytes"):
        read(release_file(tmp_path, fleet.operator, a_release(), b"packages!"), fleet)


def test_what_is_no_release_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ReleaseError, match="not a release of this fleet"):
        read_release_file(path, "fleet", [new_identity().public])
    with tarfile.open(path, "w") as packed:
        packed.addfile(tarfile.TarInfo("archive"))
    with pytest.raises(ReleaseError, match="a member release of at most"):
        read_release_file(path, "fleet", [new_identity().public])

import io
import tarfile
import zipfile

import pytest

from server.bundle import open_bundle
from server.bundle_archive import unpack_bundle
from server.errors import BundleError


def _zip(folder, archive, prefix=""):
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, prefix + path.name)


def _tar(folder, archive, name=".", mode="w"):
    with tarfile.open(archive, mode) as packed:
        packed.add(folder, name)


@pytest.mark.parametrize("kind", ["zip", "zip of a folder", "tar", "tar of a folder", "tar.gz"])
def test_a_bundle_comes_out_as_it_went_in(bundle_folder, tmp_path, kind):
    archive = tmp_path / "archive"
    if kind.startswith("zip"):
        _zip(bundle_folder, archive, "my-bundle/" if "folder" in kind else "")
    else:
        _tar(bundle_folder, archive, "my-bundle" if "folder" in kind else ".", "w:gz" if "gz" in kind else "w")
    unpacked = open_bundle(unpack_bundle(archive, tmp_path / "out"))
    assert unpacked.id == open_bundle(bundle_folder).id


def test_what_the_manifest_does_not_name_stays_in_the_archive(bundle_folder, tmp_path):
    archive = tmp_path / "archive"
    _tar(bundle_folder, archive)
    with tarfile.open(archive, "a") as packed:
        regular, link = tarfile.REGTYPE, tarfile.SYMTYPE
        for name, kind in (("../outside", regular), ("/etc/outside", regular), ("link", link)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            packed.addfile(member, io.BytesIO())
    out = unpack_bundle(archive, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {path.name for path in bundle_folder.iterdir()}
    assert not (tmp_path / "outside").exists()


def test_a_link_in_a_files_place_is_not_followed(bundle_folder, tmp_path):
    (bundle_folder / "weights.safetensors").unlink()
    (bundle_folder / "weights.safetensors").symlink_to("/etc/passwd")
    _tar(bundle_folder, tmp_path / "archive")
    with pytest.raises(BundleError, match=r"lacks weights.safetensors"):
        unpack_bundle(tmp_path / "archive", tmp_path / "out")


def test_a_file_larger_than_its_manifest_says_is_refused_before_it_is_unpacked(bundle_folder, tmp_path):
    (bundle_folder / "weights.safetensors").write_bytes(bytes(10_000_000))
    for pack, number in ((_zip, 1), (_tar, 2)):
        pack(bundle_folder, tmp_path / "archive")
        with pytest.raises(BundleError, match=r"weights.safetensors in the archive must have at most"):
            unpack_bundle(tmp_path / "archive", tmp_path / f"out{number}")
        (tmp_path / "archive").unlink()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an archive" * 100, bytes(2048)])
def test_what_is_no_bundle_is_refused(tmp_path, content):
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(BundleError):
        unpack_bundle(tmp_path / "archive", tmp_path / "out")


def test_spoilt_archives_raise_one_error(bundle_folder, tmp_path):
    for pack in (_zip, _tar):
        pack(bundle_folder, tmp_path / "whole")
        content = (tmp_path / "whole").read_bytes()
        for cut in range(0, len(content), len(content) // 20):
            (tmp_path / "cut").write_bytes(content[:cut] + b"\xff" + content[cut + 1 :])
            try:
                unpack_bundle(tmp_path / "cut", tmp_path / f"out-{pack.__name__}-{cut}")
            except BundleError:
                continue
        (tmp_path / "whole").unlink()

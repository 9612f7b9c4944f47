import io
import tarfile

import pytest
import zstandard

from devices.releases.archive import pack
from edge_client.errors import ReleaseError
from edge_client.updates.unpacking import unpack
from tests.edge_client.updates.release_trees import archive_of, release_of, write_tree


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        for member, content in members:
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return zstandard.compress(stream.getvalue())


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, 0o4777
    return made


def unpacked(folder, archive: bytes, version: str = "0.2.0", most: int = 100_000):
    folder.mkdir(exist_ok=True)
    (folder / "archive").write_bytes(archive)
    unpack(folder / "archive", release_of(archive, version, most), folder / "out")
    return folder / "out"


def test_a_tree_is_as_it_was_packed_with_its_byte_code(tmp_path):
    tree = write_tree(tmp_path / "tree", "0.2.0")
    out = unpacked(tmp_path, pack(tree).content)
    names = {path.relative_to(tree) for path in tree.rglob("*") if path.is_file()}
    assert {name: (out / name).read_bytes() for name in names} == {name: (tree / name).read_bytes() for name in names}
    others = {path.name for path in out.rglob("*") if path.is_file() and path.relative_to(out) not in names}
    assert {name.partition(".")[0] for name in others} == {"__init__", "__main__", "runner"}
    assert {path.stat().st_mode & 0o7777 for path in out.rglob("*.py")} == {0o644}


def test_the_same_tree_gives_the_same_archive(tmp_path):
    first, second = (write_tree(tmp_path / name, "0.2.0") for name in ("one", "two"))
    (second / "edge_client" / "runner.py").touch()
    assert pack(first) == pack(second)
    assert pack(first).unpacked == sum(path.stat().st_size for path in first.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "hostile",
    [
        member("../escaped"),
        member("/escaped"),
        member("a/../../escaped"),
        member("./a"),
        member(".hidden"),
        member("a//b"),
        member("a\n"),
        member("a" * 301),
        member("a", tarfile.SYMTYPE, "/etc/passwd"),
        member("a", tarfile.LNKTYPE, "edge_client/__main__.py"),
        member("a", tarfile.CHRTYPE),
        member("a", tarfile.BLKTYPE),
        member("a", tarfile.FIFOTYPE),
        member("a", tarfile.GNUTYPE_SPARSE),
    ],
    ids=lambda one: f"{one.name[:20]!r} {one.type!r}",
)
def test_anything_but_plain_files_is_refused(tmp_path, hostile):
    with pytest.raises(ReleaseError):
        unpacked(tmp_path, packed((member("edge_client/__main__.py"), b"x"), (hostile, b"")))
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "out"}


def test_a_name_that_comes_twice_is_refused(tmp_path):
    for other in ("a", "a/b"):
        with pytest.raises(ReleaseError, match="cannot be read"):
            unpacked(tmp_path / other.replace("/", ""), packed((member("a"), b"x"), (member(other), b"y")))


def test_more_than_was_signed_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(ReleaseError, match="holds more than 1000 bytes"):
        unpacked(tmp_path, packed((member("a"), bytes(1001))), most=1000)
    assert not (tmp_path / "out" / "a").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", zstandard.compress(b"no tar at all" * 100)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(ReleaseError):
        unpack(tmp_path / "archive", release_of(b"x", "0.2.0"), tmp_path / "out")


def test_an_archive_cut_off_anywhere_is_refused(tmp_path):
    whole = archive_of(tmp_path, "0.2.0")
    for number, length in enumerate(range(0, len(whole) - 1, 7)):
        (tmp_path / "archive").write_bytes(whole[:length])
        with pytest.raises(ReleaseError):
            unpack(tmp_path / "archive", release_of(whole, "0.2.0"), tmp_path / f"out-{number}")


@pytest.mark.parametrize("version", ["0.2.1", "0.1.0"])
def test_an_archive_of_another_version_is_refused(tmp_path, version):
    with pytest.raises(ReleaseError, match="does not hold release"):
        unpacked(tmp_path, archive_of(tmp_path, "0.2.0"), version)

from hashlib import sha256
from pathlib import Path

import pytest

from server.blobs import Blobs
from server.errors import DamagedError, StorageError
from wire_protocol.errors import InvalidValueError

CONTENT = b"a model" * 100
DIGEST = sha256(CONTENT).hexdigest()


@pytest.fixture(params=["file", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """On disk, and in a store that has nothing of a disk but names, as an object store."""
    folder = (tmp_path / "deep" / "blobs").as_uri()
    return Blobs(folder if request.param == "file" else folder.replace("file://", "memory://"))


def test_what_was_put_is_got_until_it_is_deleted(blobs: Blobs) -> None:
    assert [blobs.put(CONTENT) for _ in range(2)] == [DIGEST, DIGEST]
    other = blobs.put(b"")
    assert blobs.get(DIGEST) == CONTENT
    for _ in range(2):
        blobs.delete(DIGEST)
    with pytest.raises(DamagedError, match=f"blob {DIGEST} is not in {blobs.url}"):
        blobs.get(DIGEST)
    assert blobs.get(other) == b""


def test_what_was_changed_is_not_believed(blobs: Blobs) -> None:
    blobs.put(CONTENT)
    blobs._store.pipe_file(f"{blobs._root}/{DIGEST}", CONTENT + b"?")
    with pytest.raises(DamagedError, match="is damaged"):
        blobs.get(DIGEST)


@pytest.mark.parametrize("digest", ["", "../" + DIGEST, DIGEST.upper(), DIGEST + "0"])
def test_only_a_digest_names_a_blob(blobs: Blobs, digest: str) -> None:
    for action in (blobs.get, blobs.delete):
        with pytest.raises(InvalidValueError, match="digest must be 64 lower-case"):
            action(digest)


def test_on_a_disk_nothing_else_is_left(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path.as_uri())
    blobs.put(CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == [DIGEST]


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file")
    blobs = Blobs((tmp_path / "blobs").as_uri())
    with pytest.raises(StorageError, match=r"blobs/.* cannot be written"):
        blobs.put(CONTENT)


@pytest.mark.parametrize("url", ["/var/lib/blobs", "nothing://at/all", ""])
def test_a_store_that_is_not_known_is_refused(url: str) -> None:
    with pytest.raises(InvalidValueError, match=r"blobs.* must be the URL of a folder"):
        Blobs(url)

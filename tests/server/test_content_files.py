from hashlib import sha256
from pathlib import Path

import pytest

from server.content_files import ContentFiles


def test_files_are_named_by_content_and_the_last_two_stay(tmp_path: Path) -> None:
    files = ContentFiles(tmp_path / "new", 2)
    digests = [files.publish(content) for content in (b"one", b"two", b"two", b"three")]
    assert digests[0] == sha256(b"one").hexdigest()
    assert files.path_of(digests[0]) is None
    assert [files.content_of(digest) for digest in digests] == [None, b"two", b"two", b"three"]
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_what_is_named_beside_them_stays_as_long_as_it_is_named(tmp_path: Path) -> None:
    files = ContentFiles(tmp_path, 1)
    one = files.publish(b"one")
    files.publish(b"two", (one,))
    assert files.content_of(one) == b"one"
    files.publish(b"three")
    assert files.content_of(one) is None


def test_what_another_process_left_is_here_until_the_first_publication(tmp_path: Path) -> None:
    one = ContentFiles(tmp_path, 2).publish(b"one")
    again = ContentFiles(tmp_path, 2)
    assert again.content_of(one) == b"one"
    again.publish(b"two")
    assert again.content_of(one) is None


def test_what_another_process_published_stays_as_if_this_one_had(tmp_path: Path) -> None:
    before = ContentFiles(tmp_path, 3)
    digests = [before.publish(content) for content in (b"one", b"two", b"three")]
    again = ContentFiles(tmp_path, 3)
    again.resume([digests[0], digests[0], *digests[1:]])
    again.publish(b"three")
    assert [again.content_of(digest) for digest in digests] == [b"one", b"two", b"three"]
    again.publish(b"four")
    assert [again.content_of(digest) for digest in digests] == [None, b"two", b"three"]


def test_a_damaged_file_has_no_content(tmp_path: Path) -> None:
    files = ContentFiles(tmp_path, 2)
    digest = files.publish(b"one")
    (tmp_path / digest).write_bytes(b"rust")
    assert files.content_of(digest) is None


@pytest.mark.parametrize("name", ["../models", "", "0" * 64, "A" * 64])
def test_other_names_have_no_path(tmp_path: Path, name: str) -> None:
    files = ContentFiles(tmp_path, 2)
    files.publish(b"one")
    assert files.path_of(name) is None

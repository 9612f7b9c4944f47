"""Files named by the SHA-256 of their content, so that they never change, of which the last few are on offer.

What another process left stays until the first `publish`, and what of it is named by `resume` as if this one had
published it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable
from hashlib import sha256
from pathlib import Path

from server.durable_files import write_durably
from server.errors import StorageError

logger = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ContentFiles:
    """The last `kept` files published in `folder`, which is made when needed."""

    def __init__(self, folder: Path, kept: int) -> None:
        self._folder = folder
        self._kept = kept
        self._published: list[str] = []

    def resume(self, published: Iterable[str]) -> None:
        """Take these files, the oldest first, for the last ones published; before the first `publish`."""
        self._published = list(dict.fromkeys(published))

    def publish(self, content: bytes, also: Collection[str] = ()) -> str:
        """Offer a file, withdraw all but the last and those `also` named; returns its SHA-256 (hexadecimal)."""
        digest = sha256(content).hexdigest()
        if self.path_of(digest) is None:
            write_durably(self._folder / digest, content)
        others = [known for known in self._published if known != digest]
        self._published = [*others, digest][-self._kept :]
        for path in self._folder.iterdir():
            if path.name not in self._published and path.name not in also:
                path.unlink(missing_ok=True)
        return digest

    def path_of(self, digest: str) -> Path | None:
        """Path of a file, None when `digest` names none."""
        path = self._folder / digest
        return path if _SHA256.fullmatch(digest) and path.is_file() else None

    def content_of(self, digest: str) -> bytes | None:
        """A file's content, None when it is not here, or not what it was; raises `StorageError`."""
        path = self.path_of(digest)
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StorageError(f"{path} cannot be read ({error.strerror})") from error
        if sha256(content).hexdigest() == digest:
            return content
        logger.warning("%s is damaged", path)
        return None

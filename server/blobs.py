"""Content that is named by its SHA-256, on disk or in an object store, by URL (fsspec).

    file:///var/lib/fisherfleet/blobs
    s3://bucket/prefix          with s3fs (`pip install s3fs`) and credentials where boto looks for them

Invariants: a blob is there whole or not at all, on disk also after a power cut; what is read is what was put. Every
failure of a store is a `StorageError`, so that it is tried again like a full disk. Functions block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from server.durable_files import write_durably
from server.errors import DamagedError, StorageError
from wire_protocol.errors import require, require_hex_sha256

_LEGAL = "the URL of a folder, such as file:///var/lib/blobs or s3://bucket/prefix"


class Blobs:
    """The blobs at `url`; a folder is made when needed. Raises `InvalidValueError` where fsspec knows no such store."""

    def __init__(self, url: str) -> None:
        require("://" in url, "blobs", url, _LEGAL)
        self.url = url.rstrip("/")
        try:
            self._store, self._root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            require(False, f"blobs ({error})", url, _LEGAL)

    def put(self, content: bytes) -> str:
        """Keep content, which may be here already; its SHA-256 (hexadecimal)."""
        digest = sha256(content).hexdigest()
        path = self._path(digest)
        with self._failures(path):
            if not self._store.exists(path):
                self._write(path, content)
        return digest

    def get(self, digest: str) -> bytes:
        """Content that was put; raises `DamagedError` where it is not what it was, or is no longer here."""
        path = self._path(digest)
        with self._failures(path):
            try:
                content = bytes(self._store.cat_file(path))
            except FileNotFoundError as error:
                raise DamagedError(f"blob {digest} is not in {self.url}") from error
        if sha256(content).hexdigest() != digest:
            raise DamagedError(f"blob {digest} in {self.url} is damaged")
        return content

    def delete(self, digest: str) -> None:
        """Let go of content, which need not be here."""
        path = self._path(digest)
        with self._failures(path):
            if self._store.exists(path):
                self._store.rm_file(path)

    def _path(self, digest: str) -> str:
        require_hex_sha256("digest", digest)
        return f"{self._root}/{digest}"

    def _write(self, path: str, content: bytes) -> None:
        """An object store writes all or nothing; a disk does when it is asked so."""
        if isinstance(self._store, LocalFileSystem):
            write_durably(Path(path), content)
        else:
            self._store.pipe_file(path, content)

    @contextmanager
    def _failures(self, path: str) -> Iterator[None]:
        """Stores raise what their libraries do."""
        try:
            yield
        except (StorageError, DamagedError):
            raise
        except Exception as error:
            raise StorageError(f"{path} in {self.url}: {str(error) or type(error).__name__}") from error

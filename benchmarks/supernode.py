"""Flower's SuperNode as a process to be measured: a SuperLink beside it, and the moment at which that knows of it.

`requirements-flower.txt` makes the environment. The SuperNode starts no process for the training
(`--isolation process`), so this is what it is before anything of a training is loaded.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.party import free_port, wait_for_port

PATIENCE_SECONDS = 180.0
POLL_SECONDS = 0.01
_LOOPBACK = "127.0.0.1"
_COMMON = ("--insecure", "--isolation", "process", "--host", _LOOPBACK)


@contextmanager
def superlink(binaries: Path, folder: Path) -> Iterator[int]:
    """A SuperLink that keeps its nodes in `folder`; gives its port."""
    port = free_port()
    options = ["--port", str(port), "--database", str(_database(folder))]
    log = folder / "superlink.log"
    with _running([str(binaries / "flower-superlink"), *_COMMON, *options], log):
        try:
            wait_for_port(port, PATIENCE_SECONDS)
        except AssertionError as error:
            raise RuntimeError(f"the SuperLink did not begin:\n{log.read_text()}") from error
        yield port


@contextmanager
def supernode(binaries: Path, folder: Path, port: int) -> Iterator[int]:
    """A SuperNode of that SuperLink, as soon as it is known there; gives its process id."""
    known = _nodes(folder)
    options = ["--port", str(free_port()), "--superlink", f"{_LOOPBACK}:{port}"]
    log = folder / "supernode.log"
    with _running([str(binaries / "flower-supernode"), *_COMMON, *options], log) as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while _nodes(folder) == known:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the SuperNode did not become ready:\n{log.read_text()}")
            time.sleep(POLL_SECONDS)
        yield process.pid


def _nodes(folder: Path) -> int:
    database = sqlite3.connect(f"file:{_database(folder)}?mode=ro", uri=True)
    try:
        (count,) = database.execute("SELECT COUNT(*) FROM node").fetchone()
    finally:
        database.close()
    return int(count)


def _database(folder: Path) -> Path:
    return folder / "superlink.sqlite"


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    settings = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(log.parent), "NO_PROXY": _LOOPBACK}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | settings) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()

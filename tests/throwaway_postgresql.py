"""A PostgreSQL cluster of one's own in a temporary folder, on a free loopback port, gone when closed.

PostgreSQL refuses to run as root: then its processes are those of the user `postgres`, whom its package makes.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL

REQUIRE_VARIABLE = "FISHERFLEET_REQUIRE_POSTGRESQL"
_USER = "postgres"
_PATIENCE = 30.0


def find_postgresql() -> Path | None:
    """The folder of PostgreSQL's programs, the newest where there are several; None where it is not installed."""
    on_path = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = [*debian, *([Path(on_path)] if on_path else [])]
    return found[-1].parent if found else None


class Postgresql:
    """A running cluster; `durable` False spares the disk's syncs.

    Raises `FileNotFoundError` where PostgreSQL is not installed.
    """

    def __init__(self, durable: bool = False) -> None:
        programs = find_postgresql()
        if programs is None:
            raise FileNotFoundError("PostgreSQL is not installed: no initdb on PATH or in /usr/lib/postgresql")
        self._programs = programs
        self._names = count(1)
        self._durable = durable
        self._folder = Path(tempfile.mkdtemp(prefix="fisherfleet-postgresql-"))
        self._as: dict[str, Any] = {"cwd": self._folder}
        if os.geteuid() == 0:
            self._as |= {"user": _USER, "group": _USER, "extra_groups": []}
            shutil.chown(self._folder, _USER, _USER)
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        command = [programs / "initdb", "--no-sync", "--auth=trust", f"--username={_USER}", "--pgdata=cluster"]
        subprocess.run([*command, "--encoding=UTF8", "--locale=C"], **self._as, check=True, stdout=subprocess.DEVNULL)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = {"listen_addresses": "127.0.0.1", "port": self._port, "unix_socket_directories": ""}
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            command = [self._programs / "postgres", "-D", "cluster", *options]
            self._process = subprocess.Popen(command, **self._as, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start:\n{(self._folder / 'log').read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it at once, as after a power cut; it recovers at the next start. All connections are lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_PATIENCE)
            self._process = None

    def close(self) -> None:
        """Stop it and delete its folder."""
        self.stop()
        shutil.rmtree(self._folder)

    def new_database(self) -> URL:
        """The URL of a fresh schema, which is to those who use it a database of its own, and made in no time."""
        name = f"fresh_{next(self._names)}"
        with self._connect() as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        place = {"host": "127.0.0.1", "port": self._port, "database": _USER}
        return URL.create("postgresql+psycopg", _USER, **place, query={"options": f"-csearch_path={name}"})

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(host="127.0.0.1", port=self._port, user=_USER, dbname=_USER, autocommit=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

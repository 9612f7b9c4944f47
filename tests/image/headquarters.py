"""A fleet's server, broker and proxy as docs/deploy.md has them, on this host, for boards that see it as 10.0.2.2."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from devices.emulation.broker import find_mosquitto
from tests.image.board import HOST_SEEN_FROM_THE_BOARD, PATIENCE_SECONDS, POLL_SECONDS, free_port

ROOT = Path(__file__).parents[2]
RUN = "card"
_CADDYFILE = """\
{{
    admin off
    auto_https disable_redirects
}}
https://{host}:{port} {{
    bind 127.0.0.1
    tls {fleet}/broker/tls.pem {fleet}/broker/tls.key
    reverse_proxy 127.0.0.1:{http}
}}
"""


class Headquarters:
    """All of it in one folder; `start` it, and `stop` it by its processes' ids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet, self.state = folder / "fleet", folder / "state"
        self._broker, self._https, self._http = free_port(), free_port(), free_port()
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def server_url(self) -> str:
        """As a board reaches it."""
        return f"https://{HOST_SEEN_FROM_THE_BOARD}:{self._https}"

    @property
    def broker_url(self) -> str:
        """As a board reaches it."""
        return f"mqtts://{HOST_SEEN_FROM_THE_BOARD}:{self._broker}"

    def start(self, serve: Sequence[str]) -> None:
        """Make the fleet and start everything; `serve` are more options of `fisherfleet serve`."""
        self.fisherfleet("fleet", "init", self.fleet, "--host", HOST_SEEN_FROM_THE_BOARD, "--host", "127.0.0.1")
        place = self.folder / "broker"
        self.fisherfleet("broker-config", "mosquitto", "--fleet", self.fleet, "--out", place, "--port", self._broker)
        if os.geteuid() == 0:
            with (place / "mosquitto.conf").open("a") as configuration:
                configuration.write("user root\n")
        self._run(find_mosquitto(), "-c", place / "mosquitto.conf", log="broker.log")
        caddyfile = self.folder / "Caddyfile"
        host = HOST_SEEN_FROM_THE_BOARD
        caddyfile.write_text(_CADDYFILE.format(host=host, port=self._https, fleet=self.fleet, http=self._http))
        self._run("caddy", "run", "--config", caddyfile, log="caddy.log")
        self.fisherfleet("export", "mlp", "--input", "1,8,8", "--out", self.folder / "bundle")
        told = ["--fleet", self.fleet, "--broker", f"mqtts://127.0.0.1:{self._broker}", "--port", self._http]
        told += ["--state", self.state, "--bundle", self.folder / "bundle", "--run", RUN, *serve]
        self._run(sys.executable, "-m", "devices.command_line", "serve", *told, log="server.log")
        self._await_server()

    def token(self) -> str:
        """A token with which one device enrols."""
        return self.operate("devices", "enrol-token", "--broker", self.broker_url).strip()

    def operate(self, *words: object) -> str:
        """What a command prints that is the operator's."""
        operator = self.fisherfleet("tokens", "create", "me", "--role", "operator", "--state", self.state).strip()
        return self.fisherfleet(*words, "--server", f"http://127.0.0.1:{self._http}", FISHERFLEET_TOKEN=operator)

    def rounds(self) -> dict[int, int]:
        """Updates counted in each closed round."""
        database = sqlite3.connect(f"file:{self.state / 'fisherfleet.sqlite'}?mode=ro", uri=True)
        try:
            return dict(database.execute("SELECT round, updates_accepted FROM rounds WHERE status = 'closed'"))
        finally:
            database.close()

    def await_end(self) -> None:
        """Wait until the run has ended."""
        assert self._running[-1].wait(PATIENCE_SECONDS) == 0, self.logs()

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        """Stop what runs."""
        for process in reversed(self._running):
            process.kill()
            process.wait(30)

    def fisherfleet(self, *words: object, **environment: str) -> str:
        """What a command prints."""
        command = [sys.executable, "-m", "devices.command_line", *map(str, words)]
        around = os.environ | environment
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=around)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def _run(self, *command: object, log: str) -> None:
        with (self.folder / log).open("wb") as output:
            started = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT
            )
        self._running.append(started)

    def _await_server(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._answers():
            assert self._running[-1].poll() is None, self.logs()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self._http}/health", timeout=5):
            return True
        return False

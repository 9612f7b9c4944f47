"""How commands reach a server: its URL, the operator's token, and what it answers.

The token comes from FISHERFLEET_TOKEN, or from a file that only its owner can read, `~/.config/fisherfleet/token`. The
server is `--server`, FISHERFLEET_SERVER, or this machine.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import httpx

from server.errors import ServerError
from wire_protocol.errors import FisherfleetError
from wire_protocol.identity import read_private

TOKEN_VARIABLE, SERVER_VARIABLE, CONFIG_VARIABLE = "FISHERFLEET_TOKEN", "FISHERFLEET_SERVER", "XDG_CONFIG_HOME"
DEFAULT_SERVER = "http://127.0.0.1:8765"
EXIT_REFUSED = 2
_TIMEOUT_SECONDS = 60.0
_LISTING = {
    "devices": "`fisherfleet devices list`",
    "rollouts": "`fisherfleet devices updates`",
    "runs": "`fisherfleet runs list`",
    "tokens": "`fisherfleet tokens list`",
}
"""The commands that do what the server's words say that a GET does."""

Json = Any


class LinkedError(ServerError):
    """A server cannot be asked, or refused; the text holds its own words, with commands for paths."""


class Link:
    """A server by HTTP; paths are those below `/api/v1`. Every method raises `LinkedError`."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def get(self, path: str, **query: object) -> Json:
        """Read something; a `query` that is None is left out."""
        return self._ask("GET", path, params=_given(query)).json()

    def all(self, path: str, **query: object) -> Iterator[Json]:
        """Read a list, page by page."""
        after = query.pop("after", None)
        while True:
            page = self.get(path, **query, limit=1000, after=after)
            yield from page["items"]
            after = page["next"]
            if after is None:
                return

    def post(self, path: str, body: Json = None) -> Json:
        """Order something, once, even if the way there or back is not sure."""
        return self._ask("POST", path, json=body, headers={"Idempotency-Key": str(uuid.uuid4())}).json()

    def put(self, path: str, body: Json) -> Json:
        """Replace something."""
        return self._ask("PUT", path, json=body).json()

    def delete(self, path: str) -> Json:
        """Take something away."""
        return self._ask("DELETE", path).json()

    def upload(self, path: str, file: IO[bytes]) -> Json:
        """Send a file."""
        return self._ask("POST", path, content=file).json()

    def download(self, path: str, target: Path) -> int:
        """Fetch a file, which is there whole or not at all; how many bytes it has."""
        partial = target.with_name(f"{target.name}.part")
        with self._failures(), self._client.stream("GET", path) as answer:
            if answer.is_error:
                answer.read()
            _require_well(answer)
            with partial.open("wb") as file:
                for block in answer.iter_bytes():
                    file.write(block)
        partial.replace(target)
        return target.stat().st_size

    def _ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        with self._failures():
            answer = self._client.request(method, path, **how)
        _require_well(answer)
        return answer

    def _failures(self) -> _Failures:
        return _Failures(str(self._client.base_url))


class _Failures:
    """Says plainly why a server cannot be asked."""

    def __init__(self, server: str) -> None:
        self._server = server

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, httpx.HTTPError):
            raise LinkedError(f"{self._server} cannot be asked: {error or type(error).__name__}") from error


def with_link(
    program: str, server: str | None, run: Callable[[Link], None], environment: Mapping[str, str] = os.environ
) -> int:
    """Run a command against a server; returns its exit status."""
    try:
        address = server or environment.get(SERVER_VARIABLE) or DEFAULT_SERVER
        headers = {"Authorization": f"Bearer {_token(environment)}"}
        base = f"{address.rstrip('/')}/api/v1/"
        with httpx.Client(base_url=base, headers=headers, timeout=_TIMEOUT_SECONDS) as client:
            run(Link(client))
    except (FisherfleetError, httpx.InvalidURL) as error:
        sys.stderr.write(f"{program}: {error}\n")
        return EXIT_REFUSED
    except OSError as error:
        sys.stderr.write(f"{program}: {error.filename}: {error.strerror}\n")
        return EXIT_REFUSED
    return 0


def _token(environment: Mapping[str, str]) -> str:
    text = environment.get(TOKEN_VARIABLE)
    if text is None:
        config = Path(environment.get(CONFIG_VARIABLE) or Path.home() / ".config")
        path = config / "fisherfleet" / "token"
        if not path.exists():
            raise LinkedError(
                f"no token: set {TOKEN_VARIABLE}, or write it to {path} with mode 0600; "
                "`fisherfleet tokens create`, on the server's machine, makes one"
            )
        text = read_private(path).decode(errors="replace")
    return text.strip()


def _given(query: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _require_well(answer: httpx.Response) -> None:
    if not answer.is_error:
        return
    try:
        words = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        words = f"HTTP status {answer.status_code}"
    raise LinkedError(_as_commands(str(words)))


def _as_commands(words: str) -> str:
    return re.sub(r"GET /api/v1/(\w+)(?= lists)", lambda found: _LISTING.get(found[1], found[0]), words)

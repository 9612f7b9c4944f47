"""`fisherfleet tokens`: make, list and revoke tokens of the HTTP interface.

On the server's machine it works on the database itself, also while the server runs: whoever can read that needs no
token, and so the first operator gets one. With `--server` it asks a server, as an operator.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, get_args

from server.console.link import EXIT_REFUSED, TOKEN_VARIABLE, with_link
from server.console.linked_tokens import LinkedTokens
from server.console.output import moment, print_json, print_table
from server.database_url import given_database
from server.storage import Store
from server.tokens import Role, TokenRecord
from wire_protocol.errors import FisherfleetError, InvalidValueError, require

_PROGRAM = "fisherfleet tokens"
_STATE = Path("fisherfleet-state")
_DAY = 24 * 3600.0
_MOST_DAYS = 20 * 365.0


class TokenRows(Protocol):
    """Tokens in a database or of a server, as `server.tokens.Tokens` has them."""

    def create(self, name: str, role: Role, expires: float | None = None) -> str:
        """Make a token and return its text."""
        ...

    def list(self) -> tuple[TokenRecord, ...]:
        """All tokens by name, also those that are over."""
        ...

    def revoke(self, name: str) -> TokenRecord | None:
        """Let a token open nothing any more; None where there is none of this name."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = command_parser().parse_args(argv)
    if arguments.server is not None:
        return with_link(_PROGRAM, arguments.server, lambda link: _run(LinkedTokens(link), arguments))
    try:
        store = Store(arguments.state or _STATE, given_database(arguments.database))
        try:
            _run(store.tokens, arguments)
        finally:
            store.close()
    except FisherfleetError as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        return EXIT_REFUSED
    return 0


def _run(tokens: TokenRows, arguments: argparse.Namespace) -> None:
    if arguments.server is not None:
        for name in ("state", "database"):
            require(getattr(arguments, name) is None, name, getattr(arguments, name), "left out with --server")
    arguments.run(tokens, arguments)


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Who may use the server's HTTP interface and dashboard. On the server's machine it needs no token.",
    )
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    create = _command(commands, "create", _create, "make a token and print it, this once")
    create.add_argument("name", metavar="NAME", help="whose it is; the event log calls who uses it so")
    create.add_argument("--role", choices=get_args(Role), required=True, help="viewers read, operators change things")
    create.add_argument("--expires", type=float, metavar="DAYS", help="how long it lasts (default: for ever)")
    _command(commands, "list", _list, "list tokens, also those that are over; their texts nobody can show")
    revoke = _command(commands, "revoke", _revoke, "let a token open nothing any more, at once")
    revoke.add_argument("name", metavar="NAME", help="name of the token")
    return made


def _command(commands: Any, name: str, run: Callable[..., None], text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    made.add_argument("--state", type=Path, help=f"the server's state folder, on its machine (default: {_STATE})")
    made.add_argument("--database", metavar="URL", help="the server's database, if it is not in the state folder")
    asked = f"ask this server, with an operator's token from {TOKEN_VARIABLE} or ~/.config/fisherfleet/token"
    made.add_argument("--server", metavar="URL", help=asked)
    made.add_argument("--json", action="store_true", help="print JSON")
    made.set_defaults(run=run)
    return made


def _create(tokens: TokenRows, arguments: argparse.Namespace) -> None:
    days = arguments.expires
    require(days is None or 0 < days <= _MOST_DAYS, "expires", days, f"above 0, at most {_MOST_DAYS:g} days")
    expires = None if days is None else time.time() + days * _DAY
    text = tokens.create(arguments.name, arguments.role, expires)
    if arguments.json:
        print_json({"name": arguments.name, "token": text})
    else:
        sys.stdout.write(f"{text}\n")


def _list(tokens: TokenRows, arguments: argparse.Namespace) -> None:
    records = tokens.list()
    if arguments.json:
        print_json([asdict(record) for record in records])
        return
    now = time.time()
    columns = ("name", "role", "made (UTC)", "expires", "standing")
    rows = ((one.name, one.role, moment(one.created), moment(one.expires), _standing(one, now)) for one in records)
    print_table(columns, rows)


def _revoke(tokens: TokenRows, arguments: argparse.Namespace) -> None:
    record = tokens.revoke(arguments.name)
    if record is None:
        names = ", ".join(one.name for one in tokens.list()) or "there are none"
        raise InvalidValueError(f"name must be that of a token ({names}), got {arguments.name!r}")
    if arguments.json:
        print_json(asdict(record))
    else:
        sys.stdout.write(f"{record.name} opens nothing any more\n")


def _standing(record: TokenRecord, now: float) -> str:
    if record.revoked is not None:
        return "revoked"
    return "expired" if record.expires is not None and record.expires <= now else "valid"


if __name__ == "__main__":
    sys.exit(main())

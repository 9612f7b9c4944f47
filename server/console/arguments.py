"""Arguments that all commands with a server have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import nan
from typing import Any

from server.console.link import DEFAULT_SERVER, SERVER_VARIABLE, TOKEN_VARIABLE, Link

Action = Callable[[Link, argparse.Namespace], None]


def share(text: str, above_zero: bool = True) -> float:
    """A share of a whole as an option's value; raises `ArgumentTypeError`, to which argparse adds the option's name."""
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not 0 <= value <= 1 or (above_zero and not value):
        legal = "above 0 and at most 1" if above_zero else "0 to 1"
        raise argparse.ArgumentTypeError(f"must be {legal}, got {text!r}")
    return value


def new_command(program: str, description: str) -> tuple[argparse.ArgumentParser, Any]:
    """A command and where its own commands are to be added."""
    made = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=f"The token is read from {TOKEN_VARIABLE} or ~/.config/fisherfleet/token.",
    )
    return made, made.add_subparsers(required=True, metavar="COMMAND")


def add_command(commands: Any, name: str, action: Action, text: str, *named: str) -> argparse.ArgumentParser:
    """Add one; `named` are the names of its first arguments, each the name of a thing."""
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    for one in named:
        made.add_argument(one, metavar=one.upper(), help=f"the {one}'s name")
    made.add_argument(
        "--server", metavar="URL", help=f"of the server (default: ${SERVER_VARIABLE}, else {DEFAULT_SERVER})"
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    made.set_defaults(action=action)
    return made

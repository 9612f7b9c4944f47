"""`fisherfleet devices`: the devices of a server's fleet, and the kinds of devices that can be simulated."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from devices.profiles.listing import add_profiles, print_profiles
from server.console.arguments import new_command
from server.console.devices import add_commands
from server.console.link import with_link

_PROGRAM = "fisherfleet devices"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = command_parser().parse_args(argv)
    if "server" not in arguments:
        return print_profiles(arguments)
    return with_link(_PROGRAM, arguments.server, lambda link: arguments.action(link, arguments))


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made, commands = new_command(_PROGRAM, "Devices of a server's fleet, and profiles of kinds of devices.")
    add_commands(commands)
    add_profiles(commands)
    return made


if __name__ == "__main__":
    sys.exit(main())

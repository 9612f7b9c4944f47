"""`fisherfleet devices`: the devices of a server's fleet, what their boards run, and kinds of devices to simulate.

A command is asked of a server where it has `action`, and needs none where it has `run`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from devices.flashing.flash_command import add_flash
from devices.profiles.listing import add_profiles
from devices.provisioning.provision_command import add_provision
from devices.releases.release_command import add_make_release
from server.console import releases
from server.console.arguments import new_command
from server.console.devices import add_commands
from server.console.link import with_link

_PROGRAM = "fisherfleet devices"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = command_parser().parse_args(argv)
    if "run" in arguments:
        status: int = arguments.run(arguments)
        return status
    return with_link(_PROGRAM, arguments.server, lambda link: arguments.action(link, arguments))


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made, commands = new_command(_PROGRAM, "Devices of a server's fleet, their boards, and profiles.")
    add_commands(commands)
    releases.add_commands(commands)
    add_profiles(commands)
    add_provision(commands)
    add_flash(commands)
    add_make_release(commands)
    return made


if __name__ == "__main__":
    sys.exit(main())

"""`fisherfleet COMMAND ...`: one name for the commands of all packages. Only the chosen command's package is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import NamedTuple


class Command(NamedTuple):
    """The module whose `main(argv)` runs the command, and what it does in one line."""

    module: str
    summary: str


COMMANDS = {
    "emulate": Command("devices.emulation.__main__", "train a fleet of simulated devices on this machine"),
    "simulate": Command("devices.emulation.simulate_command", "train thousands of virtual devices on a virtual clock"),
    "export": Command("model_export.__main__", "turn a PyTorch model into a bundle of training graphs"),
    "serve": Command("server.__main__", "run a federated training on your fleet through your MQTT broker"),
    "runs": Command("server.console.runs", "make, start, pause, stop and watch a server's runs"),
    "devices": Command("devices.devices_command", "list, tag, revoke and enrol a server's devices; flash boards"),
    "models": Command("server.console.models", "list, download, promote and roll back a run's model versions"),
    "tokens": Command("server.console.tokens", "who may use the server's HTTP interface: create, list, revoke"),
    "backup": Command("server.back_up.backup_command", "put all that a server knows into one file, while it works"),
    "restore": Command("server.back_up.restore_command", "make a state folder and a database of a back-up"),
    "privacy": Command("server.privacy.__main__", "how much noise a promise of privacy takes: plan"),
    "fleet": Command(
        "devices.provisioning.__main__", "keys and certificates of a fleet: init, add, list, revoke, rotate"
    ),
    "broker-config": Command("devices.brokers.__main__", "write an MQTT broker's configuration and access rules"),
    "doctor": Command("devices.doctor.__main__", "try whether a broker does what a fleet needs"),
    "device": Command("edge_client.__main__", "take part in trainings as a device (also: fisherfleet-edge)"),
    "completion": Command("devices.completion", "what makes your shell complete these commands: bash, zsh"),
}
USAGE_ERROR = 2
INTERRUPTED = 130
"""Exit status of a program ended by Ctrl-C: 128 + SIGINT."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--help"], ["-h"]):
        sys.stdout.write(_usage())
        return 0
    if arguments == ["--version"]:
        sys.stdout.write(f"fisherfleet {version('fisherfleet')}\n")
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        given = repr(arguments[0]) if arguments else "nothing"
        sys.stderr.write(f"{_usage()}\nfisherfleet: command must be one of {', '.join(COMMANDS)}, got {given}\n")
        return USAGE_ERROR
    try:
        status: int = import_module(COMMANDS[arguments[0]].module).main(arguments[1:])
    except KeyboardInterrupt:
        sys.stderr.write(f"fisherfleet {arguments[0]}: stopped\n")
        return INTERRUPTED
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"fisherfleet {arguments[0]}: the package {error.name} is not installed; "
            "install requirements-server.txt (a device needs requirements-edge.txt only)\n"
        )
        return USAGE_ERROR
    return status


def _usage() -> str:
    width = max(map(len, COMMANDS))
    listed = "".join(f"  {name:<{width}}  {command.summary}\n" for name, command in COMMANDS.items())
    return f"usage: fisherfleet COMMAND [options]   (fisherfleet COMMAND --help explains)\n\n{listed}"


if __name__ == "__main__":
    sys.exit(main())
